"""`explore.py extrapolate`: views beyond the border on the pixels of the image."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis import extrapolate
from tests.analysis.tiny_networks import (
    CONTINUOUS,
    assert_refused,
    explore_run,
    names,
    read_csv,
)


def read(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "out" / name))


@pytest.mark.parametrize("preset", CONTINUOUS)
def test_the_image_is_inside_the_larger_view(preset: str, tmp_path: Path) -> None:
    result = explore_run(
        "extrapolate", tmp_path, preset, "--seeds=2", "--range=0,1", "--range=-0.3,1.25"
    )
    assert result.exit_code == 0, result.output
    image, view = (read(tmp_path, f"seed0002-range{index}.png") for index in (0, 1))
    # -0.3 and 1.25 are 4.8 and 4 pixels away: 5 + 16 + 4 pixels are drawn.
    assert view.shape == (25, 25, 3)
    inside = view[5:21, 5:21].astype(int)
    assert np.abs(inside - image).max() <= 1  # rounding of float32 may differ by a level
    assert {"extrapolate.png", "extrapolate.csv"} <= set(names(tmp_path))


def test_numbers_apart_for_inside_and_outside() -> None:
    pixels = np.full([4, 4], 255, np.uint8)
    pixels[1:3, 1:3] = [[10, 20], [30, 40]]
    region = tuple(Fraction(edge) for edge in ("-1/2", "-1/2", "3/2", "3/2"))
    span = (Fraction(-1, 2), Fraction(3, 2))
    row = extrapolate.measure(extrapolate.View("x", span, region, Image.fromarray(pixels)))
    assert row["inside_mean"] == 25 and row["inside_clipped"] == 0
    assert row["inside_std"] == pytest.approx(np.std([10, 20, 30, 40]))
    assert row["outside_mean"] == 255 and row["outside_std"] == 0 and row["outside_clipped"] == 1
    assert (row["low"], row["high"]) == ("-1/2", "3/2")


def test_a_view_without_outside(tmp_path: Path) -> None:
    result = explore_run("extrapolate", tmp_path, "inr-gan", "--seeds=0", "--range=1/4,0.75")
    assert result.exit_code == 0, result.output
    (row,) = read_csv(tmp_path / "out" / "extrapolate.csv")
    assert row["outside_mean"] == "" and float(row["inside_mean"]) > 0
    assert read(tmp_path, "seed0000-range0.png").shape == (8, 8, 3)


def test_zoom_and_shape() -> None:
    region, size = extrapolate.whole_pixels((3, 8, 16), (Fraction(-1, 4), Fraction(9, 8)), zoom=2)
    assert region == (Fraction(-1, 4), Fraction(-1, 4), Fraction(9, 8), Fraction(9, 8))
    assert size == (22, 44)


def test_the_border_is_drawn() -> None:
    view = extrapolate.View(
        "x", (Fraction(-1), Fraction(2)), (-1, -1, 2, 2), Image.new("L", (30, 30))
    )
    drawn = np.argwhere(np.asarray(extrapolate.framed(view, 90)).any(axis=2))
    assert drawn.min(axis=0).tolist() == [30, 30] and drawn.max(axis=0).tolist() == [59, 59]


@pytest.mark.parametrize("text", ["1,1", "2,1", "0", "a,1", "0,1/0", "0,1,2"])
def test_refused_ranges(text: str, tmp_path: Path) -> None:
    result = explore_run("extrapolate", tmp_path, "inr-gan", f"--range={text}")
    assert_refused(result, f"'{text}' is not a range", tmp_path)


def test_refused(tmp_path: Path) -> None:
    result = explore_run("extrapolate", tmp_path, "stylegan2")
    assert_refused(result, "is not a continuous generator", tmp_path)
    result = explore_run("extrapolate", tmp_path, "inr-gan", "--range=-2000,2000")
    assert_refused(result, "--range with all seeds makes pictures of", tmp_path)
