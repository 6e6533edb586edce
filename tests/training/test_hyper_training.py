"""The paper's models through the training loop: rates per group, every preset, both schedules."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from networks.presets import PRESETS
from torch_utils import persistence
from training.config import DatasetFacts
from training.inputs import inspect_dataset, inspect_snapshot
from training.launch import launch_training
from training.options import TrainOptions
from training.resolve import resolve

HYPER = [name for name, preset in PRESETS.items() if preset.lr is not None]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.RandomState(0)
    for index in range(8):
        Image.fromarray(rng.randint(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{index}.png")
    return str(folder)


def train(tmp_path, data, resume=None, steps=3, **options):
    """Trains for some steps of 8 images; returns the options and the last snapshot."""
    small = {"cbase": 128, "cmax": 6, "z_dim": 8, "w_dim": 10, "batch": 8, "metrics": "none"}
    given = TrainOptions(outdir="r", data=data, device="cpu", resume=resume, **{**small, **options})
    facts = inspect_dataset(given)
    assert isinstance(facts, DatasetFacts)
    run_dir = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
    run_dir.mkdir()
    found = inspect_snapshot(resume) if resume else None
    kwargs = json.loads(json.dumps(resolve(given, facts, found).to_dict(str(run_dir))))
    kwargs.update(total_kimg=steps * 0.008, image_snapshot_ticks=None, network_snapshot_ticks=1)
    launch_training(kwargs)
    return kwargs, next(iter(run_dir.glob("network-snapshot-*.pkl")))


@pytest.mark.parametrize("preset", HYPER)
def test_every_preset_trains_and_its_snapshot_opens(tmp_path, data, preset):
    _, path = train(tmp_path, data, generator=preset, cfg="tiny")
    G = persistence.read(path.read_bytes())["G_ema"]
    assert G.preset == preset and G.mapping.num_layers == 3
    image = G(torch.randn(2, 8), None, truncation_psi=0.5)
    assert image.shape == (2, 1, 16, 16) and image.isfinite().all()
    assert (
        G.synthesis.render(G.mapping(torch.randn(1, 8), None), (-1, 0, 1, 1), (3, 5)).shape[3] == 5
    )


def test_steps_have_the_rates_of_the_groups(tmp_path, data):
    kwargs, path = train(
        tmp_path, data, generator="inr-gan-vanilla", cfg="paper-inr", steps=1, mirror=False
    )
    assert kwargs["D_reg_interval"] is None
    kwargs["run_dir"] = str(tmp_path / "again")
    (tmp_path / "again").mkdir()
    # The same step at rate 0 keeps the initial weights, so the difference is one step of Adam.
    kwargs["G_opt_kwargs"]["lr"] = 0.0
    launch_training(kwargs)
    start, stepped = (
        persistence.read(file.read_bytes())["G"] for file in (tmp_path / "again" / path.name, path)
    )
    for (name, a), (_, b) in zip(start.named_parameters(), stepped.named_parameters()):
        rate = 1e-5 if name.startswith(("mapping", "synthesis.to_theta")) else 5e-4
        largest = float((a - b).abs().max())
        assert largest == pytest.approx(rate, rel=0.05), name


def test_resuming_goes_on_with_the_files_architecture(tmp_path, data):
    _, path = train(tmp_path, data, generator="inr-fmm", cfg="tiny", fmm_rank=2, steps=1)
    kwargs, resumed = train(tmp_path, data, resume=str(path), cfg="tiny", steps=1)
    assert kwargs["G_kwargs"]["preset"] == "inr-fmm"
    assert kwargs["G_kwargs"]["synthesis_kwargs"]["rank"] == 2
    assert kwargs["G_kwargs"]["w_dim"] == 10
    assert persistence.read(resumed.read_bytes())["G"].synthesis.b16.steps[1].layers[0].rank == 2
