"""Small generators as snapshots, and the commands of explore.py run on them."""

from __future__ import annotations

import csv
import pickle
from functools import cache
from pathlib import Path

import torch
from click.testing import CliRunner, Result

import explore
import networks

CONTINUOUS = ("inr-gan", "inr-gan-bil", "inr-gan-bil-published", "inr-gan-vanilla", "inr-latent")
"""Presets that stand for all kinds of continuous generators."""


def make(preset: str, c_dim: int = 0, img_channels: int = 3, resolution: int = 16):
    """A generator with a few channels; its weights do not depend on what ran before."""
    torch.manual_seed(0)
    G = networks.build_generator(
        preset,
        z_dim=8,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=resolution,
        img_channels=img_channels,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 128, "channel_max": 8},
    )
    G.mapping.w_avg.normal_()
    return G.eval().requires_grad_(False)


@cache
def content(preset: str, c_dim: int = 0, img_channels: int = 3, resolution: int = 16) -> bytes:
    """A snapshot of `make` as the content of a file."""
    G = make(preset, c_dim, img_channels, resolution)
    data = {"training_set_kwargs": {}, "G": G, "D": None, "G_ema": G, "augment_pipe": None}
    return pickle.dumps(data)


def snapshot(folder: Path, preset: str, **kwargs: int) -> Path:
    """Write a snapshot; returns its path."""
    path = folder / f"{preset}.pkl"
    path.write_bytes(content(preset, **kwargs))
    return path


def explore_run(name: str, folder: Path, preset: str, *options: str, **kwargs: int) -> Result:
    """Run a sub-command on a tiny network; it writes to `folder / "out"`."""
    network = snapshot(folder, preset, **kwargs)
    common = [f"--network={network}", f"--outdir={folder / 'out'}", "--device=cpu"]
    return CliRunner().invoke(explore.main, [name, *common, *options])


def names(folder: Path) -> list[str]:
    """What a command has written."""
    return sorted(path.name for path in (folder / "out").iterdir())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_refused(result: Result, sentence: str, folder: Path) -> None:
    """One sentence, exit code 2, nothing written."""
    assert result.exit_code == 2, result.output
    assert sentence in result.output
    assert [line for line in result.output.splitlines() if line.startswith("Error: ")] == [
        result.output.splitlines()[-1]
    ]
    assert not (folder / "out").exists()
