"""Diagrams: where values land, which numbers stand at the axes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from analysis import plots
from analysis.plots import Axis


def pixels_of(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """(y, x) of all pixels of exactly this colour."""
    return np.argwhere((np.asarray(picture) == colour).all(axis=2))


def test_positions() -> None:
    assert Axis("", 10, 20).position(15) == 0.5
    assert Axis("", 1, 100, True).position(10) == pytest.approx(0.5)
    assert Axis("", 1, 100, True).position(0) == 0  # nothing below the lower end


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0, 10), [0, 2, 4, 6, 8, 10]),
        (Axis("", 0, 0.31), [0, 0.1, 0.2, 0.3]),
        (Axis("", 1, 1000, True), [1, 10, 100, 1000]),
        (Axis("", 15, 260, True, True), [16, 32, 64, 128, 256]),
        (Axis("", 15, 260, True), [20, 50, 100, 200]),
        (Axis("", 1, 1e12, True), [1, 100, 1e4, 1e6, 1e8, 1e10, 1e12]),
    ],
)
def test_ticks(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


def test_axes_hold_their_values() -> None:
    linear, log = plots.axis_over([3, 8], "x"), plots.axis_over([3, 8], "x", is_log=True)
    assert linear.low == 0 and linear.high > 8
    assert 0 < log.low < 3 and log.high > 8
    assert plots.axis_over([0, 0], "x").high == 1


def test_lines_go_through_their_points() -> None:
    axes = Axis("x", 0, 1), Axis("y", 0, 1)
    picture = plots.line_plot({"a": [(0, 0), (1, 1)], "b": [(0, 1), (1, 1)]}, *axes)
    rising, flat = (pixels_of(picture, colour) for colour in plots.COLOURS[:2])
    inside = rising[rising[:, 0] > 60]  # without the legend
    # From the lower left to the upper right corner.
    left, right = inside[inside[:, 1].argmin()], inside[inside[:, 1].argmax()]
    assert left[0] - right[0] > 250 and right[1] - left[1] > 450
    line = flat[flat[:, 1] > 200]
    assert len(line) > 400


def test_bars_stand_on_each_other() -> None:
    axes = Axis("x", 0, 2), Axis("y", 0, 10)
    picture = plots.histogram({"a": [5, 0], "b": [5, 0]}, [0, 1, 2], *axes)
    lower, upper = (pixels_of(picture, colour) for colour in plots.COLOURS[:2])
    lower, upper = (p[(p[:, 0] > 30) & (p[:, 1] < 400)] for p in (lower, upper))
    assert upper[:, 0].max() <= lower[:, 0].min()
    assert abs(len(lower) - len(upper)) < 0.05 * len(lower)


def test_a_low_bar_is_still_seen() -> None:
    axes = Axis("x", 0, 1), Axis("y", 0, 1e6)
    picture = plots.histogram({"a": [1]}, [0, 1], *axes)
    bars = pixels_of(picture, plots.COLOURS[0])
    assert len(bars[bars[:, 0] > 60]) > 100


def test_numbers_for_people() -> None:
    numbers = (0, 0.25, 12, 34000, 1.2e6, 5e9)
    assert [plots.short_number(n) for n in numbers] == ["0", "0.25", "12", "34k", "1.2M", "5G"]


def test_diagrams_below_each_other() -> None:
    parts = [Image.new("RGB", (10, height), (height,) * 3) for height in (4, 6)]
    sheet = np.asarray(plots.stacked(parts))
    assert sheet.shape == (10, 10, 3) and sheet[3, 0, 0] == 4 and sheet[4, 0, 0] == 6
