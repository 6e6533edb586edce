"""`explore.py superres`: four columns, of which the last is the function itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import superres
from analysis.subjects import Subject
from networks import sampling
from tests.analysis.tiny_networks import assert_refused, explore_run, make, names, read_csv
from torch_utils.images import to_uint8


def read(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "out" / name))


@pytest.mark.parametrize("preset", ["inr-gan-bil", "inr-gan-vanilla"])
def test_pictures_and_numbers(preset: str, tmp_path: Path) -> None:
    result = explore_run("superres", tmp_path, preset, "--seeds=3,5", "--size=40x32")
    assert result.exit_code == 0, result.output
    assert len(names(tmp_path)) == 2 * 5 + 2
    assert {"superres.png", "superres.csv", "seed0005-inr.png"} <= set(names(tmp_path))

    G = make(preset)
    ws = sampling.ws_of_seed(G, 5)
    drawn = to_uint8(G.synthesis.render(ws, size=(32, 40)))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(read(tmp_path, "seed0005-inr.png"), drawn)
    small = Image.open(tmp_path / "out" / "seed0005.png")
    assert np.array_equal(
        read(tmp_path, "seed0005-bicubic.png"),
        np.asarray(small.resize((40, 32), Image.Resampling.BICUBIC)),
    )
    rows = read_csv(tmp_path / "out" / "superres.csv")
    assert [row["method"] for row in rows] == [*superres.COLUMNS] * 2
    assert float(rows[3]["rms_to_inr"]) == 0 and float(rows[0]["rms_to_inr"]) > 0


def test_the_measures_by_hand() -> None:
    flat = Image.new("L", (4, 4), 100)
    steps = Image.fromarray(np.tile(np.array([0, 90, 0, 90], np.uint8), (4, 1)))
    found = superres.Enlargement("x", flat, {"nearest": flat, superres.INR: steps})
    nearest, inr = superres.measure(found)
    assert nearest["rms_to_inr"] == pytest.approx((0.5 * 100**2 + 0.5 * 10**2) ** 0.5)
    assert nearest["detail"] == 0
    assert inr["detail"] == pytest.approx(45)  # 90 along the rows, 0 along the columns


def test_classes_and_grey_pictures(tmp_path: Path) -> None:
    options = ("--seeds=1", "--class=0,2", "--size=32")
    result = explore_run("superres", tmp_path, "inr-gan", *options, c_dim=3, img_channels=1)
    assert result.exit_code == 0, result.output
    assert "seed0001-class02-inr.png" in names(tmp_path)
    assert read(tmp_path, "seed0001-class02-inr.png").shape == (32, 32)


def test_refused(tmp_path: Path) -> None:
    result = explore_run("superres", tmp_path, "stylegan2")
    assert_refused(result, "is not a continuous generator", tmp_path)
    result = explore_run("superres", tmp_path, "inr-gan", "--size=0")
    assert_refused(result, "'0' is an empty picture", tmp_path)
    result = explore_run("superres", tmp_path, "inr-gan", "--size=20000")
    assert_refused(result, "--size with all seeds makes pictures of 80000x80000 pixels", tmp_path)


def test_the_sheet_shows_each_picture_at_one_size() -> None:
    picture = Image.new("RGB", (16, 16))
    found = superres.Enlargement("x", picture, dict.fromkeys(superres.COLUMNS, picture))
    assert superres.sheet([found, found]).height > 2 * 128


def test_lod_changes_the_function_only(tmp_path: Path) -> None:
    G = make("inr-gan")
    subject = Subject("x", 1, None, sampling.ws_of_seed(G, 1))
    fixed, scaled = (superres.enlarge(G, subject, (32, 32), lod) for lod in ("fixed", "scaled"))
    assert fixed.large["nearest"] == scaled.large["nearest"]
    assert fixed.large["INR"] != scaled.large["INR"]
    assert torch.equal(subject.ws, sampling.ws_of_seed(G, 1))
