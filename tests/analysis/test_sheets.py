"""Arrangement of pictures on sheets."""

from __future__ import annotations

import numpy as np
from PIL import Image

from analysis import sheets


def flat(value: int, side: int = 8) -> Image.Image:
    return Image.new("L", (side, side), value)


def test_sample_sheet_has_one_row_per_class() -> None:
    sheet = np.asarray(sheets.sample_sheet([[flat(10), flat(20)], [flat(30), flat(40)]], scale=2))
    margin = sheet.shape[1] - 2 * (16 + 2)
    assert sheet.shape == (2 * (16 + 2) - 2, margin + 36, 3)
    corners = sheet[[0, 0, 18, 18], [margin, margin + 18, margin, margin + 18]]
    assert corners[:, 0].tolist() == [10, 20, 30, 40]
    for row in (0, 18):  # the label is drawn in front of each row
        assert sheet[row : row + 16, :margin].min() < 128


def test_comparison_sheet_repeats_pixels_of_the_small_pictures() -> None:
    small = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    sheet = np.asarray(sheets.comparison_sheet([small], [flat(7)]))
    assert sheet.shape == (8 + 2 + 8, 8, 3)
    assert np.array_equal(sheet[:8, :, 0], np.kron([[0, 255], [255, 0]], np.ones([4, 4])))
    assert (sheet[10:] == 7).all()


def test_zoom_sheet_frames_the_unit_square() -> None:
    sheet = np.asarray(sheets.zoom_sheet([flat(0, 64)], (-0.5, -0.5, 1.5, 1.5)))
    drawn = np.argwhere(sheet.any(axis=2))
    assert drawn.min(axis=0).tolist() == [16, 16]
    assert drawn.max(axis=0).tolist() == [47, 47]
    assert not sheet[20:44, 20:44].any()


def test_overview_holds_all_sheets() -> None:
    samples = sheets.sample_sheet([[flat(1, 32)] * 10] * 10)
    comparison = sheets.comparison_sheet([flat(60)] * 4, [flat(60, 128)] * 4)
    zoom = sheets.zoom_sheet([flat(90, 128)] * 4, (-0.5, -0.5, 1.5, 1.5))
    page = np.asarray(sheets.overview(samples, comparison, zoom))
    assert page.shape[0] == samples.height
    assert {1, 60, 90} <= set(np.unique(page[:, :, 0]).tolist())


def test_labelled_sheet_puts_words_around_the_pictures() -> None:
    rows = [[flat(10, 40), flat(20, 60)], [flat(30, 40), flat(40, 60)]]
    plain = np.asarray(sheets.labelled_sheet(rows))
    assert plain.shape == (2 * 60 + 2, 40 + 2 + 60, 3)
    # Smaller pictures stand in the middle of their row.
    assert plain[10:50, :40].max() == 10 and plain[:60, 42:].max() == 20
    words = np.asarray(sheets.labelled_sheet(rows, ["a", "b"], ["first", "second"]))
    top, left = words.shape[0] - plain.shape[0], words.shape[1] - plain.shape[1]
    assert np.array_equal(words[top:, left:], plain)
    assert words[:top].min() < 128 and words[top:, :left].min() < 128


def test_a_column_is_as_wide_as_its_word() -> None:
    narrow = sheets.labelled_sheet([[flat(0, 8)]], ["a long heading"])
    assert narrow.width > 80


def test_enlarged_repeats_pixels() -> None:
    small = Image.fromarray(np.array([[0, 255, 7]], np.uint8))
    large = np.asarray(sheets.enlarged(small, 3))
    assert np.array_equal(large, np.kron([[0, 255, 7]], np.ones([3, 3])))
    assert sheets.enlarged(small, 1) is small
