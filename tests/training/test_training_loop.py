"""Whole training runs on the CPU, with networks and pictures as small as they come."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from torch_utils import persistence
from training import setup
from training.config import DatasetFacts
from training.inputs import inspect_snapshot
from training.launch import launch_training
from training.options import TrainOptions
from training.resolve import resolve
from training.stats_log import json_line
from training.training_loop import training_loop

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "cfg": "tiny", "cbase": 128, "cmax": 8, "z_dim": 8, "w_dim": 8, "batch": 8, "metrics": "none"
}  # fmt: skip
STATS = [
    "Loss/scores/fake", "Loss/signs/fake", "Loss/G/loss", "Loss/pl_penalty", "Loss/G/reg",
    "Loss/scores/real", "Loss/signs/real", "Loss/D/loss", "Loss/r1_penalty", "Loss/D/reg",
    "Progress/tick", "Progress/kimg", "Timing/total_sec", "Timing/sec_per_tick",
    "Timing/sec_per_kimg", "Timing/maintenance_sec", "Resources/cpu_mem_gb",
    "Resources/peak_gpu_mem_gb", "Progress/augment", "Timing/total_hours", "Timing/total_days",
    "Timing/Gmain", "Timing/Greg", "Timing/Dmain", "Timing/Dreg",
]  # fmt: skip


def make_zip(path: Path, channels: int = 3, num: int = 20, side: int = 16) -> str:
    rng = np.random.RandomState(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(num):
            pixels = rng.randint(0, 256, [side, side, channels], dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(stream, "png")
            archive.writestr(f"{i:03d}.png", stream.getvalue())
        labels = [[f"{i:03d}.png", i % 3] for i in range(num)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return str(path)


def run_kwargs(folder: Path, channels: int = 3, **options: Any) -> dict[str, Any]:
    """Arguments of a run of three ticks (1, 5 and 9 steps) in a new folder."""
    data = make_zip(folder / "ds.zip", channels)
    given = TrainOptions(outdir=str(folder), data=data, device="cpu", **{**SMALL, **options})
    facts = DatasetFacts(name="ds", image_shape=(channels, 16, 16), num_images=20, label_dim=3)
    run_dir = folder / "run"
    run_dir.mkdir()
    kwargs = resolve(given, facts).to_dict(str(run_dir))
    # Image grids (1024 images, here worth a hundred steps) only where a test looks at them.
    return {
        **kwargs,
        "total_kimg": 0.072,
        "kimg_per_tick": 0.032,
        "network_snapshot_ticks": 100,
        "image_snapshot_ticks": None,
    }


def read_stats(run_dir: Path) -> list[dict[str, Any]]:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    lines = (run_dir / "stats.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def load(run_dir: Path, nimg: int = 0) -> dict[str, Any]:
    return persistence.read((run_dir / f"network-snapshot-{nimg:06d}.pkl").read_bytes())


@pytest.mark.parametrize("generator", ["stylegan2", "inr-gan-bil"])
def test_three_ticks_with_ada(tmp_path, generator):
    is_conditional = generator == "inr-gan-bil"
    kwargs = run_kwargs(tmp_path, generator=generator, cond=is_conditional, aug="ada")
    # Below every possible value, so that p goes up by 32 / 1000 after the 4th and the 8th step.
    kwargs.update(ada_target=-1, ada_kimg=1, image_snapshot_ticks=1, network_snapshot_ticks=1)
    launch_training(kwargs)

    run_dir = tmp_path / "run"
    files = {p.name for p in run_dir.iterdir() if not p.name.startswith("events.out.tfevents")}
    assert files == {
        "reals.png", "fakes_init.png", "fakes000000.png", "network-snapshot-000000.pkl",
        "log.txt", "stats.jsonl",
    }  # fmt: skip
    expected = [s for s in STATS if is_conditional is False or s not in
                ("Loss/pl_penalty", "Loss/G/reg", "Timing/Greg")]  # fmt: skip
    stats = read_stats(run_dir)
    assert len(stats) == 3 and all(list(s) == [*expected, "timestamp"] for s in stats)
    assert [s["Progress/tick"]["mean"] for s in stats] == [0, 1, 2]
    assert [s["Progress/kimg"]["mean"] for s in stats] == pytest.approx([0.008, 0.04, 0.072])
    assert [s["Progress/augment"]["mean"] for s in stats] == pytest.approx([0, 0.032, 0.064])
    assert all(math.isfinite(s[n]["mean"]) for s in stats for n in expected if n[:4] == "Loss")
    # Two logits per real image in Dmain and Dreg of the first step, then only Dmain.
    assert [s["Loss/signs/real"]["num"] for s in stats] == [16, 32, 32]

    data = load(run_dir)
    assert data["augment_pipe"].p.item() == pytest.approx(0.064)
    assert data["training_set_kwargs"] == kwargs["training_set_kwargs"]
    for name in ("G", "D", "G_ema"):
        assert all(torch.isfinite(t).all() for t in data[name].state_dict().values())
    assert data["G_ema"].c_dim == (3 if is_conditional else 0)
    assert not torch.equal(data["G"].mapping.fc0.weight, data["G_ema"].mapping.fc0.weight)
    assert Image.open(run_dir / "fakes000000.png").size == (32 * 16, 32 * 16)

    log = (run_dir / "log.txt").read_text()
    headings = [
        "Loading training set...", "Num images:  20", "Constructing networks...",
        "Setting up augmentation...", "Distributing across 1 GPUs...",
        "Setting up training phases...", "Exporting sample images...", "Initializing logs...",
        "Training for 0.072 kimg...", "tick 0 ", "tick 1 ", "tick 2 ", "\nExiting...",
    ]  # fmt: skip
    positions = [log.index(heading) for heading in headings]
    assert positions == sorted(positions)
    status = next(line for line in log.splitlines() if line.startswith("tick 1 "))
    assert status.startswith("tick 1     kimg 0.0      time ") and status.endswith("augment 0.032")


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures(tmp_path, channels):
    kwargs = run_kwargs(tmp_path, channels=channels, generator="inr-gan", aug="fixed", p=0.5)
    training_loop(**{**kwargs, "total_kimg": 0.008, "image_snapshot_ticks": 1})
    assert Image.open(tmp_path / "run" / "fakes000000.png").size == (512, 512)
    assert Image.open(tmp_path / "run" / "reals.png").mode == {1: "L", 4: "RGBA"}[channels]
    G = load(tmp_path / "run")["G_ema"]
    assert G(torch.randn(2, 8), None).shape == (2, channels, 16, 16)


def test_callbacks_end_a_run(tmp_path):
    kwargs = run_kwargs(tmp_path, aug="noaug")
    seen, answers = [], iter([False, True])
    training_loop(
        **{**kwargs, "total_kimg": 1000},
        abort_fn=lambda: next(answers),
        progress_fn=lambda current, total: seen.append((current, total)),
    )
    assert seen == [(0, 1000), (0.008, 1000), (0.04, 1000)]
    assert len(read_stats(tmp_path / "run")) == 2
    assert load(tmp_path / "run")["augment_pipe"] is None


def test_options_of_stylegan2_ada(tmp_path):
    """Class names of old option files, a worker process, no snapshots."""
    kwargs = run_kwargs(tmp_path, generator="stylegan2", aug="noaug", workers=1)
    del kwargs["G_kwargs"]["preset"]
    kwargs["G_kwargs"]["class_name"] = "training.networks.Generator"
    kwargs["D_kwargs"]["class_name"] = "training.networks.Discriminator"
    kwargs.update(total_kimg=0.016, network_snapshot_ticks=None)
    assert kwargs["data_loader_kwargs"]["num_workers"] == 1
    training_loop(**kwargs)
    assert read_stats(tmp_path / "run")[-1]["Progress/kimg"]["mean"] == pytest.approx(0.016)
    assert not list((tmp_path / "run").glob("fakes0*")) + list((tmp_path / "run").glob("*.pkl"))


def test_same_seed_same_networks(tmp_path):
    states = []
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "c"):
        folder.mkdir()
        kwargs = run_kwargs(folder, aug="fixed", p=0.3, seed=int(folder.name == "c"))
        training_loop(**{**kwargs, "total_kimg": 0.024})
        states.append(load(folder / "run")["G"].state_dict())
    first, again, other = states
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not torch.equal(other["mapping.fc0.weight"], first["mapping.fc0.weight"])


def test_resume_copies_the_networks(tmp_path):
    kwargs = run_kwargs(tmp_path, aug="noaug")
    training_loop(**{**kwargs, "total_kimg": 0.008})
    path = tmp_path / "run" / "network-snapshot-000000.pkl"
    data = load(tmp_path / "run")
    dataset = setup.construct_dataset(kwargs["training_set_kwargs"])
    modules = dict(
        zip(
            ("G", "D", "G_ema"),
            setup.build_networks(
                kwargs["G_kwargs"], kwargs["D_kwargs"], dataset, torch.device("cpu")
            ),
        )
    )
    setup.resume_networks(str(path), modules)
    for name, module in modules.items():
        state = data[name].state_dict()
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    wider = {**kwargs["G_kwargs"], "w_dim": 16}
    G, _, _ = setup.build_networks(wider, kwargs["D_kwargs"], dataset, torch.device("cpu"))
    with pytest.raises(UserError, match="net.*-000000.pkl does not fit: in G, "):
        setup.resume_networks(str(path), {"G": G})


def test_a_snapshot_describes_both_networks(tmp_path):
    kwargs = run_kwargs(tmp_path, generator="stylegan2", cond=True, aug="noaug")
    kwargs["D_kwargs"]["architecture"] = "orig"
    training_loop(**{**kwargs, "total_kimg": 0.008})
    facts = inspect_snapshot(str(tmp_path / "run" / "network-snapshot-000000.pkl"))
    assert (facts.preset, facts.c_dim, facts.map_depth) == ("stylegan2", 3, 1)
    assert (facts.d_architecture, facts.d_map_depth) == ("orig", 1)


def test_latents_do_not_depend_on_the_number_of_processes(tmp_path):
    kwargs = run_kwargs(tmp_path, cond=True)
    dataset = setup.construct_dataset(kwargs["training_set_kwargs"])
    draws = []
    for num_gpus in (1, 2):
        np.random.seed(0)
        torch.manual_seed(0)
        latents = setup.Latents(dataset, 8, 12, num_gpus, torch.device("cpu"))
        draws.append(latents.next(num_phases=3, batch_gpu=2))
    assert [[z.shape[0] for z in zs] for zs, _ in draws[0]] == [[2] * 6] * 3
    for (z_all, c_all), (z, c) in zip(*draws):
        assert len(z) == 3 and torch.equal(torch.cat(z), torch.cat(z_all)[:6])
        assert torch.equal(torch.cat(c), torch.cat(c_all)[:6])
        assert all(row.sum() == 1 for row in torch.cat(c))


def test_statistics_without_samples_are_null():
    line = json_line({"a": {"num": 0, "mean": math.nan, "std": math.inf}}, 1.5)
    assert line == '{"a": {"num": 0, "mean": null, "std": null}, "timestamp": 1.5}'


TWO_PROCESSES = """
import json, sys
import torch
from torch_utils import distributed
from training import launch, maintenance

folder = sys.argv[1]

class Spy(maintenance.Maintenance):
    def __exit__(self, *args):
        super().__exit__(*args)
        modules = self._files._modules
        state = {name: module.state_dict() for name, module in modules.items()}
        torch.save(state, f"{folder}/rank{distributed.rank()}.pt")

def process(rank, kwargs):
    from training import training_loop
    training_loop.Maintenance = Spy
    launch.train_process(rank, kwargs)

if __name__ == "__main__":
    kwargs = json.load(open(f"{folder}/kwargs.json"))
    distributed.launch(process, 2, (kwargs,), "cpu")
"""


@pytest.mark.slow
def test_two_processes_end_with_the_same_networks(tmp_path):
    kwargs = run_kwargs(tmp_path, gpus=2, batch=8, cond=True, aug="ada")
    kwargs.update(ada_target=-1, ada_kimg=1)
    (tmp_path / "kwargs.json").write_text(json.dumps(kwargs))
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "two.py"), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert list(first) == ["G", "D", "G_ema", "augment_pipe"]
    for name, state in first.items():
        assert all(torch.equal(second[name][key], value) for key, value in state.items()), name
    assert first["augment_pipe"]["p"] == pytest.approx(0.064)
    stats = read_stats(tmp_path / "run")
    assert [s["Loss/D/loss"]["num"] for s in stats] == [8, 32, 32], "both processes count"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("Constructing networks...") == 1 and "Distributing across 2 GPUs..." in log


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to wait for")
@pytest.mark.parametrize("workers", [0, 2])
def test_termination_leaves_a_snapshot(tmp_path, workers):
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    process = subprocess.Popen(
        [sys.executable, "train.py", f"--outdir={tmp_path / 'runs'}", "--kimg=1000",
         f"--data={make_zip(tmp_path / 'ds.zip')}", "--device=cpu", "--tick=1000",
         f"--workers={workers}", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("tick 0"):
            break
    # The snapshots of tick 0 come after its status line; the request may arrive within them.
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTERM)  # also to its workers, as batch systems do
    output = "".join(lines) + process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "Stopping on request" in output and output.rstrip().endswith("Exiting...")
    (run_dir,) = (tmp_path / "runs").iterdir()
    path = output.split("The network so far is in ")[1].splitlines()[0]
    assert Path(path).parent == run_dir
    assert persistence.read(Path(path).read_bytes())["G_ema"].img_resolution == 16


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_ends_the_training_at_once(tmp_path):
    # Large enough that reading the header does not read the whole file.
    data = Path(make_zip(tmp_path / "ds.zip", side=64))
    content = bytearray(data.read_bytes())
    # A flipped byte inside the last picture's pixels: its header is sound, its checksum is not.
    position = content.rindex(b"IDAT") + 9000
    content[position] ^= 0xFF
    data.write_bytes(bytes(content))
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = subprocess.run(
        [sys.executable, "train.py", f"--outdir={tmp_path / 'runs'}", "--kimg=1", f"--data={data}",
         "--device=cpu", "--workers=2", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    # The loader's processes are alive by then, and must not keep the exit waiting.
    assert "Constructing networks..." in done.stdout
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert "019.png" in line
