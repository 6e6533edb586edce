"""The transform "pad" of dataset_tool.py, and what the tool says about sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import dataset_tool
from training.dataset import ImageFolderDataset
from training.dataset_files import DatasetError
from training.dataset_transform import Transform


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Pixels from 1 to 255, so that 0 is padding."""
    return np.random.RandomState(0).randint(1, 256, [height, width, channels], dtype=np.uint8)


def tool(source: Path, dest: Path, *options: str) -> Result:
    arguments = [f"--source={source}", f"--dest={dest}", *options]
    return CliRunner().invoke(dataset_tool.main, arguments)


def folder_of(path: Path, *pictures: np.ndarray) -> Path:
    path.mkdir()
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(path / f"{index}.png")
    return path


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("shape", "canvas", "corner"),
    [((18, 18), (20, 20), (1, 1)), ((9, 13), (10, 14), (0, 0)), ((16, 24), (16, 24), (0, 0))],
)
def test_pad_centres_the_picture_on_the_next_size_that_fits(channels, shape, canvas, corner):
    pixels = noise(*shape, channels)
    padded = Transform(kind="pad")(pixels)
    assert padded.shape == (*canvas, channels) and padded.dtype == np.uint8
    rows, cols = (slice(start, start + side) for start, side in zip(corner, shape))
    np.testing.assert_array_equal(padded[rows, cols], pixels)
    assert padded.astype(int).sum() == pixels.astype(int).sum()  # all else is 0


def test_pad_to_a_given_size():
    pixels = noise(6, 9)
    padded = Transform(kind="pad", width=20, height=10)(pixels)
    np.testing.assert_array_equal(padded[2:8, 5:14], pixels)
    assert padded.astype(int).sum() == pixels.astype(int).sum()


def test_pad_shrinks_what_does_not_fit_and_keeps_its_aspect():
    pixels = noise(30, 20)
    padded = Transform(kind="pad", width=20, height=15, resize_filter="box")(pixels)
    expected = Image.fromarray(pixels).resize((10, 15), Image.Resampling.BOX)
    np.testing.assert_array_equal(padded[:, 5:15], expected)
    assert not padded[:, :5].any() and not padded[:, 15:].any()


def test_pad_needs_both_sides_or_neither():
    with pytest.raises(DatasetError, match="both --width and --height, or neither"):
        Transform(kind="pad", width=20)


def test_the_tool_pads_and_says_what_fits(tmp_path):
    source = folder_of(tmp_path / "in", noise(22, 34), noise(22, 34))
    plain = tool(source, tmp_path / "plain.zip")
    assert plain.exit_code == 0
    assert "train.py takes 36x24 or 32x20, but not 34x22; --transform=pad" in plain.stdout
    padded = tool(source, tmp_path / "padded.zip", "--transform=pad", "--resize-filter=box")
    assert padded.exit_code == 0 and "2 pictures, 36x24 RGB" in padded.stdout
    assert "train.py takes" not in padded.stdout and "stylegan2 needs square" in padded.stdout
    dataset = ImageFolderDataset(tmp_path / "padded.zip", resolution=(24, 36))
    np.testing.assert_array_equal(dataset[0][0][:, 1:23, 1:35], noise(22, 34).transpose(2, 0, 1))
    noted = dataset.provenance
    assert (noted["transform"], noted["resize_filter"], noted["shape"]) == (
        "pad",
        "box",
        [3, 24, 36],
    )
    assert ImageFolderDataset(source).provenance == {}


def test_an_empty_source_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(folder_of(tmp_path / "in", noise(8, 8)))
    result = tool("", tmp_path / "out.zip")
    assert result.exit_code == 2 and "--source must not be empty" in result.stderr
    assert not (tmp_path / "out.zip").exists()
