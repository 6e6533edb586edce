"""`explore.py ablate`: short trainings with different ranks or activations, and their curves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import dnnlib
import explore
import train
from analysis import ablation
from metrics import metric_main
from metrics.frechet_inception_distance import compute_fid
from tests.metrics import tiny_detectors
from tests.training.test_training_loop import make_zip

TINY = [
    "--cfg=tiny",
    "--cbase=16",
    "--cmax=4",
    "--z-dim=4",
    "--w-dim=4",
    "--batch=64",
    "--aug=noaug",
]


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, the tiny detectors, no network."""
    tiny_detectors.make(tmp_path / "detectors")
    monkeypatch.setenv("GAN_DETECTOR_DIR", str(tmp_path / "detectors"))
    dnnlib.util.set_cache_dir(str(tmp_path / "cache"))
    yield
    dnnlib.util.set_cache_dir(None)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """train.py in this process, with an fid5k of 12 images; command lines."""
    found: list[list[str]] = []

    def fid5k(opts):
        opts.dataset_kwargs.update(max_size=None, xflip=False)
        return {"fid5k": compute_fid(opts, max_real=None, num_gen=12)}

    def run_train(arguments: Sequence[str], quiet: bool = False) -> tuple[int, str, str]:
        if "--dry-run" not in arguments:
            found.append(list(arguments))
        result = CliRunner().invoke(train.main, list(arguments))
        assert result.exception is None or result.exit_code == 2, result.output
        return result.exit_code, result.stdout, result.stderr

    monkeypatch.setattr(metric_main, "_metrics", {**metric_main._metrics, "fid5k": fid5k})
    monkeypatch.setattr(ablation, "run_train", run_train)
    return found


def run(folder: Path, *options: str, extra: Sequence[str] = TINY) -> Result:
    data = folder / "images.zip"
    if not data.exists():
        make_zip(data, side=8)
    common = [f"--data={data}", f"--outdir={folder / 'out'}", "--device=cpu", "--kimg=1"]
    return CliRunner().invoke(explore.main, ["ablate", *common, *options, "--", *extra])


def read_report(folder: Path) -> dict:
    return json.loads((folder / "out" / "ablate.json").read_text())


def test_trains_what_is_missing_and_draws_the_curves(
    tmp_path: Path, trainings: list[list[str]]
) -> None:
    result = run(tmp_path, "--fmm-rank=1", "--seed=5")
    assert result.exit_code == 0, result.output
    assert len(trainings) == 1
    first = read_report(tmp_path)["runs"]["1"]
    result = run(tmp_path, "--fmm-rank=1,3", "--seed=5")
    assert result.exit_code == 0 and "has it already" in result.output, result.output
    assert len(trainings) == 2 and "--fmm-rank=3" in trainings[1]
    report = read_report(tmp_path)
    assert report["option"] == "fmm-rank" and list(report["runs"]) == ["1", "3"]
    assert report["runs"]["1"] == first
    for value, entry in report["runs"].items():
        options = json.loads((Path(entry["run_dir"]) / "training_options.json").read_text())
        assert options["G_kwargs"]["synthesis_kwargs"]["rank"] == int(value)
        assert options["random_seed"] == 5 and options["total_kimg"] == 1
        assert entry["kimg"] == [0, 1] and min(entry["fid5k"]) > 0
    numbers = [entry["fid5k"][1] for entry in report["runs"].values()]
    assert numbers[0] != numbers[1]
    assert Image.open(tmp_path / "out" / "ablate.png").size == (860, 480)


@pytest.mark.usefixtures("trainings")
def test_activations_of_the_papers_model(tmp_path: Path) -> None:
    data = f"--data={make_zip(tmp_path / 'images.zip', side=8)}"
    arguments = ("--generator=inr-gan-vanilla", data, "--device=cpu")
    values = ("sigmoid", "identity")
    asked = ablation.Plan("fmm-activation", values, "fid5k", 4, 2, arguments, tmp_path / "runs")
    for value in values:
        options = ablation.expected_options(asked, value)
        assert options["G_kwargs"]["preset"] == "inr-gan-vanilla"
        assert options["G_kwargs"]["synthesis_kwargs"]["fmm_activation"] == value
        assert options["kimg_per_tick"] == 2 and options["network_snapshot_ticks"] == 1
    assert not (tmp_path / "runs").exists()


def make_run(folder: Path, name: str, options: dict, lines: Sequence[str]) -> None:
    (folder / name).mkdir(parents=True)
    text = json.dumps({**options, "run_dir": name})
    (folder / name / "training_options.json").write_text(text)
    (folder / name / "metric-kid5k.jsonl").write_text("".join(line + "\n" for line in lines))


def line(kimg: int, value: float | None) -> str:
    snapshot = f"network-snapshot-{kimg:06d}.pkl"
    return json.dumps({"results": {"kid5k": value}, "snapshot_pkl": snapshot})


def plan(folder: Path, metric: str = "kid5k") -> ablation.Plan:
    return ablation.Plan("fmm-rank", ("1", "3"), metric, 20, 4, ("--cfg=tiny",), folder)


def test_only_finished_runs_with_the_same_options_are_used(tmp_path: Path) -> None:
    options = {"batch_size": 8, "device": "cpu"}
    whole = [line(0, 3), line(10, 2), line(20, 1)]
    assert ablation.finished_run(plan(tmp_path), options) is None
    make_run(tmp_path, "00000-x", options, whole)
    make_run(tmp_path, "00001-x", {**options, "device": "cuda"}, whole)
    make_run(tmp_path, "00002-x", options, whole[:2])
    make_run(tmp_path, "00003-x", {**options, "batch_size": 16}, whole)
    make_run(tmp_path, "00004-x", options, [])
    (tmp_path / "00005-x").mkdir()
    (tmp_path / "00005-x" / "training_options.json").write_text("{")
    assert ablation.finished_run(plan(tmp_path), options) == tmp_path / "00001-x"


def test_reading_a_curve(tmp_path: Path) -> None:
    lines = [line(0, 9), line(4, 5), "", "{", '{"results": {}}', line(8, None), line(4, 6)]
    make_run(tmp_path, "run", {}, lines)
    assert ablation.read_curve(tmp_path / "run", "kid5k") == [(0, 9), (4, 6)]
    assert ablation.read_curve(tmp_path / "run", "fid5k") == []


def test_the_command_line_of_a_run(tmp_path: Path) -> None:
    command = plan(tmp_path).command("3")
    assert command[0] == "--cfg=tiny" and command[-1] == "--fmm-rank=3"
    assert {"--metrics=kid5k", "--kimg=20", "--tick=5", "--snap=1"} <= set(command)


def test_a_training_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, how in ((0, "was stopped early"), (2, "failed")):
        monkeypatch.setattr(ablation, "run_train", lambda _arguments, code=code: (code, "", ""))
        with pytest.raises(dnnlib.UserError, match=f"--fmm-rank=3 {how}"):
            ablation.train(plan(tmp_path), "3", {})


def test_train_is_a_process_of_its_own(tmp_path: Path) -> None:
    code, output, errors = ablation.run_train(["--help"], quiet=True)
    assert code == 0 and "--fmm-rank" in output and errors == ""


def test_ctrl_c_waits_for_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Process:
        returncode = 0

        def communicate(self):
            calls.append("communicate")
            if len(calls) < 3:
                raise KeyboardInterrupt
            return None, None

    monkeypatch.setattr(subprocess, "Popen", lambda *_args, **_kwargs: Process())
    with pytest.raises(KeyboardInterrupt):
        ablation.run_train([])
    assert len(calls) == 3


@pytest.mark.parametrize("values", [[8.0, 4.0, 2.0], [-0.1, 0.01, 0.001], [-2.0, -1.0, -1.5]])
def test_plot_of_any_values(values: list[float]) -> None:
    """KID can be negative; what a logarithmic axis cannot show lies on its lower end."""
    curves = {"1": list(zip([0, 5, 10], values)), "3": [(0, values[0])]}
    pixels = np.asarray(ablation.plot(curves, "kid5k", "title"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "with either --fmm-rank or --fmm-activation"),
        (["--fmm-rank=1", "--fmm-activation=tanh"], "with either --fmm-rank or --fmm-activation"),
        (["--fmm-rank=0"], "0 is not in the range 1 to 4096"),
        (["--fmm-rank=1,2,3,4,5,6,7"], "--fmm-rank names 7 values; 1 to 6 fit"),
        (["--fmm-activation=none,relu"], "'relu' is not one of demod, tanh"),
        (["--fmm-rank=1", "--points=2"], "--points=2 is more than --kimg=1"),
        (["--fmm-rank=1", "--metric=is50k"], "is50k"),
        (["--fmm-rank=1", "--generator=inr-latent"], "inr-latent"),
    ],
)
def test_refused(options: list[str], sentence: str, tmp_path: Path) -> None:
    result = run(tmp_path, *options)
    assert result.exit_code == 2 and sentence in result.stderr, result.output
    assert result.stderr.count("Error: ") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("trainings")
def test_what_train_refuses_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for extra, sentence in {
        "--gamma=-1": "train.py: Invalid value for '--gamma'",
        "--cond=yes_please": "train.py: Invalid value for '--cond'",
        "--bogus=1": "train.py: there is no option --bogus",
    }.items():
        result = run(tmp_path, "--fmm-rank=1,2", extra=[*TINY, extra])
        assert result.exit_code == 2 and sentence in result.stderr, result.output
    result = run(tmp_path, "--fmm-rank=1", f"--data={tmp_path / 'nothing'}")
    assert result.exit_code == 2 and "nothing" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("trainings")
def test_without_a_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAN_DETECTOR_DIR")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    result = run(tmp_path, "--fmm-rank=1")
    assert result.exit_code == 2 and "the detector 'inception-2015-12-05'" in result.stderr
    assert not (tmp_path / "out").exists()
