"""torch_utils.images: one conversion, grids, files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib import UserError
from torch_utils import images


def test_to_uint8_values() -> None:
    x = torch.tensor([-1.0, -0.999, 0.0, 0.5, 1.0, 5.0, -5.0])
    assert images.to_uint8(x).tolist() == [0, 0, 128, 191, 255, 255, 0]
    assert images.to_uint8(x).dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_to_uint8_in_low_precision_is_that_of_its_values(dtype: torch.dtype) -> None:
    x = torch.linspace(-1.2, 1.2, 999).to(dtype)
    exact = np.floor(np.clip(x.to(torch.float64).numpy() * 127.5 + 128, 0, 255))
    # float32 may round 127.5 x + 128 up to the next integer.
    assert np.abs(images.to_uint8(x).numpy() - exact).max() <= (dtype == torch.float64)


def test_round_trip() -> None:
    x = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(images.to_uint8(images.from_uint8(x)), x)
    assert images.from_uint8(x)[[0, 255]].tolist() == [-1, 1]


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_tile_grid(kind: str) -> None:
    x = torch.arange(5 * 2 * 3 * 4).reshape(5, 2, 3, 4)
    grid = images.tile_grid(x if kind == "tensor" else x.numpy(), (3, 2))
    assert isinstance(grid, torch.Tensor if kind == "tensor" else np.ndarray)
    grid = torch.as_tensor(grid)
    assert grid.shape == (2, 6, 12)
    for i in range(5):
        row, column = divmod(i, 3)
        tile = grid[:, row * 3 : row * 3 + 3, column * 4 : column * 4 + 4]
        assert torch.equal(tile, x[i])
    assert (grid[:, 3:, 8:] == 0).all()
    with pytest.raises(ValueError, match="5 images"):
        images.tile_grid(x, (2, 2))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_write_image_layouts(tmp_path: Path, channels: int, mode: str) -> None:
    pixels = torch.randint(0, 256, [channels, 5, 7], dtype=torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    for name, image in {
        "chw.png": pixels,
        "hwc.png": array,
        "chw_array.png": pixels.numpy(),
        "hwc_tensor.png": torch.as_tensor(array),
    }.items():
        images.write_image(tmp_path / name, image)
        with Image.open(tmp_path / name) as picture:
            assert picture.mode == mode and picture.size == (7, 5)
            assert np.array_equal(np.asarray(picture).reshape(5, 7, channels), array)


def test_write_image_where_both_layouts_fit(tmp_path: Path) -> None:
    x = torch.arange(27, dtype=torch.uint8).reshape(3, 3, 3)
    for image, expected in ((x, x.permute(1, 2, 0).numpy()), (x.numpy(), x.numpy())):
        images.write_image(tmp_path / "x.png", image)
        with Image.open(tmp_path / "x.png") as picture:
            assert np.array_equal(np.asarray(picture), expected)
    images.write_image(tmp_path / "grey.png", np.zeros([3, 3], np.uint8))
    with Image.open(tmp_path / "grey.png") as picture:
        assert picture.mode == "L"


def test_write_image_refuses(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="float32"):
        images.write_image(tmp_path / "x.png", torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"\[5, 6, 7\]"):
        images.write_image(tmp_path / "x.png", torch.zeros(5, 6, 7, dtype=torch.uint8))
    picture = torch.zeros(4, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"nowhere"):
        images.write_image(tmp_path / "nowhere" / "x.png", picture)
    for name in ("x.unknown", "x.jpg"):  # JPEG has no alpha channel
        with pytest.raises(UserError, match=name):
            images.write_image(tmp_path / name, picture)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_save_image_grid(tmp_path: Path, channels: int) -> None:
    img = np.random.RandomState(0).uniform(-1.2, 1.2, [6, channels, 2, 5])
    images.save_image_grid(img, tmp_path / "a.png", drange=(-1, 1), grid_size=(3, 2))
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture).reshape(4, 15, channels)
    first = np.rint(((img[0] + 1) * 127.5).clip(0, 255)).transpose(1, 2, 0)
    assert np.array_equal(pixels[:2, :5], first.astype(np.uint8))
    reals = torch.randint(0, 256, [1, channels, 4, 4], dtype=torch.uint8)
    images.save_image_grid(reals, str(tmp_path / "b.png"), drange=(0, 255), grid_size=(1, 1))
    with Image.open(tmp_path / "b.png") as picture:
        expected = reals[0].permute(1, 2, 0).numpy()
        assert np.array_equal(np.asarray(picture).reshape(4, 4, channels), expected)
