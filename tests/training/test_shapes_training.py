"""Training runs on the CPU with every number of channels, on squares and on rectangles."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import generate
import train
from dnnlib import UserError
from torch_utils import persistence
from training import inputs, setup
from training.dataset import Dataset
from training.launch import launch_training
from training.options import TrainOptions
from training.resolve import resolve

SMALL = {"cfg": "tiny", "cbase": 128, "cmax": 8, "z_dim": 8, "w_dim": 8, "batch": 8}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Stripes(Dataset):
    """Vertical stripes of any shape and number of channels, made up when asked for."""

    def __init__(self, shape: list[int], **kwargs: Any) -> None:
        super().__init__(name="stripes", raw_shape=[12, *shape], **kwargs)

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        image = np.zeros(self.image_shape, np.uint8)
        image[:, :, raw_idx % 4 :: 4] = 20 * raw_idx
        return image

    def _load_raw_labels(self) -> None:
        return None


def folder_of_pictures(path: Path, channels: int, height: int, width: int) -> str:
    """Twelve noisy gradients, uint8."""
    path.mkdir()
    rng = np.random.RandomState(0)
    ramp = np.linspace(0, 200, width)[None, :, None]
    for index in range(12):
        pixels = (ramp + rng.randint(0, 50, [height, width, channels])).astype(np.uint8)
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(path / f"{index}.png")
    return str(path)


def prepare(tmp_path: Path, data: str, **options: Any) -> dict[str, Any]:
    """Arguments of a run of two ticks (1 and 5 steps) in the new folder "run"."""
    given = TrainOptions(
        outdir=str(tmp_path), data=data, device="cpu", metrics="none", **{**SMALL, **options}
    )
    facts = inputs.inspect_dataset(given)
    resume = inputs.inspect_snapshot(given.resume) if given.resume else None
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    kwargs = resolve(given, facts, resume).to_dict(str(run_dir))
    return {
        **kwargs,
        "total_kimg": 0.04,
        "kimg_per_tick": 0.032,
        "network_snapshot_ticks": 100,
        "image_snapshot_ticks": None,
    }


def last_stats(run_dir: Path) -> dict[str, float]:
    lines = (run_dir / "stats.jsonl").read_text().splitlines()
    return {
        name: value["mean"] for name, value in json.loads(lines[-1]).items() if "mean" in str(value)
    }


def check_networks(run_dir: Path, shape: tuple[int, int, int]) -> Path:
    """The snapshot holds finite networks of this shape; returns its path."""
    path = run_dir / "network-snapshot-000000.pkl"
    data = persistence.read(path.read_bytes())
    for name in ("G", "D", "G_ema"):
        assert data[name].img_shape == shape
        assert all(torch.isfinite(t).all() for t in data[name].state_dict().values())
    image = data["G_ema"](torch.randn(4, 8), None, noise_mode="const")
    assert image.shape == (4, *shape) and image.isfinite().all()
    assert data["D"](data["augment_pipe"](image), None).isfinite().all()
    return path


@pytest.mark.parametrize("size", [(16, 16), (24, 16)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_ada_moves_and_everything_stays_finite(tmp_path, channels, size):
    data = folder_of_pictures(tmp_path / "ds", channels, *size)
    kwargs = prepare(tmp_path, data, aug="ada", augpipe="bgcfnc", generator="inr-gan-bil")
    # Below every possible value, so that p goes up by 32 / 100 after the 4th step.
    launch_training({**kwargs, "ada_target": -1, "ada_kimg": 0.1, "augment_p": 0.2})
    stats = last_stats(tmp_path / "run")
    assert stats["Progress/augment"] == pytest.approx(0.52)
    losses = [value for name, value in stats.items() if name.startswith("Loss/")]
    assert len(losses) > 5 and all(math.isfinite(value) for value in losses)
    path = check_networks(tmp_path / "run", (channels, *size))
    data = persistence.read(path.read_bytes())
    assert data["augment_pipe"].p.item() == pytest.approx(0.52)
    wanted = data["training_set_kwargs"]["resolution"]
    assert wanted == (16 if size == (16, 16) else list(size))


@pytest.mark.parametrize(("generator", "channels"), [("inr-gan", 1), ("inr-gan-bil", 4)])
def test_grids_resume_and_generate_of_rectangles(tmp_path, generator, channels):
    height, width = 16, 24
    data = folder_of_pictures(tmp_path / "ds", channels, height, width)
    kwargs = prepare(tmp_path, data, aug="fixed", p=0.5, generator=generator)
    launch_training({**kwargs, "total_kimg": 0.008, "image_snapshot_ticks": 1})
    for name in ("reals", "fakes_init", "fakes000000"):
        sheet = Image.open(tmp_path / "run" / f"{name}.png")
        assert sheet.mode == MODES[channels] and sheet.size == (32 * width, 32 * height)
    first = np.asarray(Image.open(tmp_path / "run" / "reals.png"))[:height, :width]
    assert any(
        np.array_equal(first, np.asarray(Image.open(file))) for file in Path(data).glob("*.png")
    )
    path = check_networks(tmp_path / "run", (channels, height, width))

    for options, size in (
        ([], (width, height)),
        (["--size=48x32", "--region=0,0,1,1"], (48, 32)),
        (["--size=12x16", "--region=0,0,1/2,1"], (12, 16)),
    ):
        out = tmp_path / f"out{len(options)}{size[0]}"
        arguments = [f"--network={path}", "--seeds=0", f"--outdir={out}", "--device=cpu"]
        result = CliRunner().invoke(generate.main, arguments + options)
        assert result.exit_code == 0, result.output
        picture = Image.open(out / "seed0000.png")
        assert picture.size == size and picture.mode == MODES[channels]

    again = tmp_path / "again"
    again.mkdir()
    resumed = prepare(again, data, resume=str(path))
    assert resumed["G_kwargs"]["preset"] == generator
    launch_training({**resumed, "total_kimg": 0.008})
    check_networks(again / "run", (channels, height, width))
    (tmp_path / "turned").mkdir()
    turned = folder_of_pictures(tmp_path / "turned" / "ds", channels, width, height)
    with pytest.raises(UserError, match="image size is 24x16, but this run needs 16x24"):
        prepare(tmp_path / "turned", turned, resume=str(path))


def test_two_channels_of_a_data_set_of_ones_own(tmp_path):
    data = folder_of_pictures(tmp_path / "ds", 3, 16, 24)
    kwargs = prepare(tmp_path, data, aug="fixed", p=0.7)
    kwargs["training_set_kwargs"] = {"class_name": f"{__name__}.Stripes", "shape": [2, 16, 24]}
    launch_training({**kwargs, "total_kimg": 0.016})
    check_networks(tmp_path / "run", (2, 16, 24))
    assert Image.open(tmp_path / "run" / "reals.png").mode == "LA"
    with pytest.raises(UserError, match="of stripes have 5 channels, but only 1"):
        setup.construct_dataset({"class_name": f"{__name__}.Stripes", "shape": [5, 16, 24]})


def test_a_conditional_rectangle_from_the_command_line(tmp_path, monkeypatch):
    """96x64 pictures with the default generator, from train.py to the snapshot; two steps."""
    monkeypatch.setattr(
        "training.launch.launch_training",
        lambda kwargs: launch_training({**kwargs, "total_kimg": 0.016}),
    )
    data = Path(folder_of_pictures(tmp_path / "ds", 3, 64, 96))
    labels = [[file.name, index % 2] for index, file in enumerate(sorted(data.glob("*.png")))]
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    options = [
        f"--outdir={tmp_path / 'runs'}", f"--data={data}", "--cond=1", "--mirror=1",
        "--device=cpu", "--metrics=none", "--cfg=tiny", "--cbase=192", "--cmax=4",
        "--z-dim=8", "--w-dim=8", "--kimg=1", "--batch=8",
    ]  # fmt: skip
    result = CliRunner().invoke(train.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Image resolution:   96x64 (width x height)" in result.output
    (run_dir,) = (tmp_path / "runs").iterdir()
    path = run_dir / "network-snapshot-000000.pkl"
    G = persistence.read(path.read_bytes())["G_ema"]
    assert (G.preset, G.c_dim, G.img_resolution) == ("inr-gan-bil", 2, 96)
    assert G.synthesis.lattices() == ((16, 32, 64), (24, 48, 96))
    assert Image.open(run_dir / "fakes000000.png").size == (32 * 96, 32 * 64)
