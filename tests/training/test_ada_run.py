"""A few hundred steps on real digits-like pictures with ADA: finite numbers, a p that moves."""

from __future__ import annotations

import io
import json
import math
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from torch_utils import persistence
from training.config import DatasetFacts
from training.launch import launch_training
from training.options import TrainOptions
from training.resolve import resolve

STEPS = 200


def write_pictures(path, count=64):
    """Coloured discs and squares on dark ground, labelled by their shape."""
    random = np.random.RandomState(0)
    labels = []
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            picture = Image.new("RGB", (32, 32), (10, 10, 30))
            x, y, size = (int(v) for v in random.randint([2, 2, 8], [14, 14, 16]))
            draw = ImageDraw.Draw(picture)
            shape = draw.ellipse if index % 2 else draw.rectangle
            shape(
                (x, y, x + size, y + size), fill=tuple(int(v) for v in random.randint(90, 255, 3))
            )
            stream = io.BytesIO()
            picture.save(stream, "png")
            archive.writestr(f"{index:03d}.png", stream.getvalue())
            labels.append([f"{index:03d}.png", index % 2])
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["stylegan2", "inr-gan"])
def test_a_few_hundred_steps_with_ada_stay_finite_and_move_p(tmp_path, generator):
    options = TrainOptions(
        outdir=str(tmp_path),
        data=write_pictures(tmp_path / "shapes.zip"),
        device="cpu",
        cfg="tiny",
        cbase=256,
        cmax=16,
        z_dim=16,
        w_dim=16,
        batch=8,
        aug="ada",
        generator=generator,
    )
    facts = DatasetFacts(name="shapes", image_shape=(3, 32, 32), num_images=64, label_dim=2)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    kwargs = resolve(options, facts).to_dict(str(run_dir))
    kwargs |= {
        "total_kimg": STEPS * 8 / 1000,
        "kimg_per_tick": 0.4,
        "image_snapshot_ticks": None,
        "network_snapshot_ticks": 1000,
        "ada_kimg": 4,  # p may cover 0 to 1 within 4000 images
    }
    launch_training(kwargs)

    stats = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    means = [value["mean"] for line in stats for key, value in line.items() if key[:4] == "Loss"]
    assert means and all(mean is not None and math.isfinite(mean) for mean in means)
    augment = [line["Progress/augment"]["mean"] for line in stats]
    assert max(augment) > 0 and all(0 <= p <= 1 for p in augment)
    snapshot = max(run_dir.glob("network-snapshot-*.pkl"))
    data = persistence.read(snapshot.read_bytes())
    for name in ("G", "D", "G_ema"):
        assert all(t.isfinite().all() for t in data[name].state_dict().values())
