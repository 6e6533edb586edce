"""Metrics inside a training: results, TensorBoard, and everything that may go wrong with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib import UserError
from metrics import metric_main
from metrics.frechet_inception_distance import compute_fid
from tests.metrics import tiny_detectors
from tests.training.test_training_loop import ROOT, SMALL, load, make_zip, run_kwargs
from training.metric_runs import MetricRuns
from training.options import TrainOptions
from training.training_loop import training_loop

SNAPSHOT = "network-snapshot-000000.pkl"


@pytest.fixture(autouse=True)
def _own_cache_and_no_network(tmp_path, monkeypatch):
    """Nothing is found in the user's cache or on the network; registered metrics go away again."""
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("GAN_DETECTOR_DIR", raising=False)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(metric_main, "_metrics", dict(metric_main._metrics))


@pytest.fixture
def detectors(tmp_path):
    return tiny_detectors.make(tmp_path / "detectors")


@metric_main.register_metric
def fid30(opts):
    opts.dataset_kwargs.update(max_size=None, xflip=False)
    return {"fid30": compute_fid(opts, max_real=None, num_gen=30)}


def results(run_dir: Path, name: str) -> list[dict[str, Any]]:
    lines = (run_dir / f"metric-{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def runs_of(kwargs: dict[str, Any], *names: str, **options: Any) -> MetricRuns:
    return MetricRuns(
        names,
        kwargs["run_dir"],
        kwargs["training_set_kwargs"],
        kwargs["data_loader_kwargs"],
        1,
        0,
        torch.device("cpu"),
        **options,
    )


class Lines(list):
    def __call__(self, text: str) -> None:
        assert "\n" not in text
        self.append(text)


def test_metrics_at_every_snapshot(tmp_path, detectors, capsys):
    kwargs = run_kwargs(tmp_path, aug="noaug", cond=True, seed=3)
    kwargs.update(metrics=["fid30"], detectors=detectors, network_snapshot_ticks=2)
    training_loop(**kwargs)  # ticks 0, 1 and 2
    first, last = results(tmp_path / "run", "fid30")
    assert list(first)[:7] == [
        "results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl",
        "timestamp",
    ]  # fmt: skip
    assert first["results"]["fid30"] > 0 and first["results"] != last["results"]
    assert first["snapshot_pkl"] == SNAPSHOT
    assert first["provenance"]["seed"] == 3 and first["provenance"]["num_real"] == 20

    out = capsys.readouterr().out
    assert out.count("Evaluating metrics...\n") == 2
    assert json.dumps(last) in out.splitlines()
    positions = [out.index(text) for text in ("tick 0 ", "Evaluating", '{"results"', "tick 1 ")]
    assert positions == sorted(positions)

    # The last snapshot on disk is what was measured last.
    lines = Lines()
    again = runs_of(kwargs, "fid30", seed=3, detectors=detectors)
    values = again.evaluate(load(tmp_path / "run")["G_ema"], "x.pkl", lines)
    assert values["fid30"] == pytest.approx(last["results"]["fid30"], rel=1e-6)


def test_tensorboard_gets_the_results(tmp_path, detectors):
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    kwargs = run_kwargs(tmp_path, aug="noaug")
    kwargs.update(metrics=["fid30"], detectors=detectors, total_kimg=0.008)
    training_loop(**kwargs)
    (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
    values = {
        value.tag: value.tensor.float_val[0]
        for event in event_file.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }
    (line,) = results(tmp_path / "run", "fid30")
    assert values["Metrics/fid30"] == pytest.approx(line["results"]["fid30"])
    assert "Loss/D/loss" in values


def test_metrics_do_not_change_the_training(tmp_path, detectors):
    states = []
    for name, metrics in (("with", ["fid30"]), ("without", [])):
        (tmp_path / name).mkdir()
        kwargs = run_kwargs(tmp_path / name, generator="stylegan2", aug="fixed", p=0.5)
        kwargs.update(network_snapshot_ticks=1, detectors=detectors)
        training_loop(**{**kwargs, "metrics": metrics, "total_kimg": 0.024})
        states.append(load(tmp_path / name / "run"))
    for network in ("G", "D", "G_ema"):
        first, second = (state[network].state_dict() for state in states)
        assert all(torch.equal(second[key], value) for key, value in first.items())


def test_without_detectors_one_line_says_so(tmp_path, capsys):
    # The default of --metrics.
    kwargs = run_kwargs(tmp_path, aug="noaug", metrics=TrainOptions(outdir="", data="").metrics)
    assert kwargs["metrics"] == ["fid50k_full"] and "detectors" not in kwargs
    kwargs.update(network_snapshot_ticks=1, total_kimg=0.04)
    training_loop(**kwargs)
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "Training goes on without fid50k_full" in line]
    for cure in ("--detector=inception-2015-12-05=PATH", "GAN_DETECTOR_DIR", "network"):
        assert cure in line
    assert out.count("Evaluating metrics...") == 1, "not tried again at the second snapshot"
    assert "tick 1 " in out and out.endswith("\nExiting...\n")
    assert not list((tmp_path / "run").glob("metric-*"))


def test_a_failing_metric_is_one_line(tmp_path, detectors):
    @metric_main.register_metric
    def broken(opts):
        np.random.seed(9)
        raise RuntimeError("out of\n  everything " + 1000 * "x")

    kwargs = run_kwargs(tmp_path)
    runs = runs_of(kwargs, "broken", "fid30", detectors=detectors)
    G = torch.nn.Module()
    G.forward = lambda z, c: z.tanh()[:, :1, None, None].expand(-1, 3, 16, 16)
    G.z_dim, G.c_dim = 8, 0
    state = np.random.get_state()[1].tolist()
    lines = Lines()
    values = runs.evaluate(G, SNAPSHOT, lines)
    assert list(values) == ["fid30"] and len(results(tmp_path / "run", "fid30")) == 1
    start, line = lines
    assert start == "Evaluating metrics..."
    assert line.startswith("broken failed this time") and len(line) < 500
    assert "RuntimeError: out of everything xxx" in line
    assert np.random.get_state()[1].tolist() == state
    assert runs.names == ["broken", "fid30"], "both are tried again at the next snapshot"


def test_pictures_that_have_gone_are_one_line(tmp_path, detectors):
    kwargs = run_kwargs(tmp_path)
    (tmp_path / "ds.zip").unlink()
    lines = Lines()
    runs = runs_of(kwargs, "fid30", detectors=detectors)
    assert runs.evaluate(torch.nn.Module(), SNAPSHOT, lines) == {}
    assert "fid30 failed" in lines[1] and "ds.zip" in lines[1] and len(lines) == 2


def test_a_request_to_stop_ends_a_metric(tmp_path):
    rounds = []

    @metric_main.register_metric
    def endless(opts):
        part = opts.progress.sub("rounds", 10**6).sub("more", 10**6)
        while True:
            rounds.append(1)
            part.update(len(rounds))

    runs = runs_of(run_kwargs(tmp_path), "endless", "fid30")
    lines = Lines()
    values = runs.evaluate(torch.nn.Module(), SNAPSHOT, lines, lambda: len(rounds) == 5)
    assert values == {} and len(rounds) == 5
    assert lines[1:] == ["Asked to stop: endless is not finished."]


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match="'fid51k' is not one of fid50k_full, "):
        training_loop(run_dir=str(tmp_path), metrics=["fid51k"])
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"] or not list(tmp_path.iterdir())


TWO_PROCESSES = """
import json, sys
import torch
from metrics import metric_main
from metrics.frechet_inception_distance import compute_fid
from torch_utils import distributed
from training import launch

@metric_main.register_metric
def fid30(opts):
    return {"fid30": compute_fid(opts, max_real=None, num_gen=30)}

@metric_main.register_metric
def one_breaks(opts):
    class Progress:
        verbose = False
        def sub(self, *args, **kwargs): return self
        def update(self, items):
            if distributed.rank() == 1 and items > 20:
                raise RuntimeError("only here")
    opts.progress = Progress()
    return {"x": compute_fid(opts, max_real=None, num_gen=1000)}

if __name__ == "__main__":
    launch.launch_training(json.load(open(sys.argv[1])))
"""


@pytest.mark.slow
def test_two_processes(tmp_path, detectors):
    """An error of one of them does not leave the other waiting; the numbers are those of one."""
    kwargs = run_kwargs(tmp_path, gpus=2, aug="noaug")
    kwargs.update(metrics=["one_breaks", "fid30"], detectors=detectors, total_kimg=0.008)
    (tmp_path / "kwargs.json").write_text(json.dumps(kwargs))
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "two.py"), str(tmp_path / "kwargs.json")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if "one_breaks" in line]
    assert line.endswith("the training goes on: RuntimeError: only here")
    assert done.stdout.endswith("\nExiting...\n")
    (line,) = results(tmp_path / "run", "fid30")
    assert line["num_gpus"] == 2

    alone = runs_of(kwargs, "fid30", detectors=detectors)
    values = alone.evaluate(load(tmp_path / "run")["G_ema"], SNAPSHOT, Lines())
    assert values["fid30"] == pytest.approx(line["results"]["fid30"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to wait for")
def test_termination_during_a_metric(tmp_path, detectors):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    process = subprocess.Popen(
        [sys.executable, "train.py", f"--outdir={tmp_path / 'runs'}", "--kimg=1000",
         f"--data={make_zip(tmp_path / 'ds.zip')}", "--device=cpu", "--tick=1000",
         *options, "--metrics=pr50k3_full", f"--detector=vgg16={detectors['vgg16']}"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Evaluating metrics"):
            break
    time.sleep(2)
    os.killpg(process.pid, signal.SIGTERM)
    output = "".join(lines) + process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "Asked to stop: pr50k3_full is not finished." in output
    assert "The network so far is in " in output and output.endswith("Exiting...\n")
    assert output.count("Evaluating metrics") == 1
