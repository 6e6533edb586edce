"""The one conversion between network images and 8-bit images, and writing pictures.

Networks work on float images in [-1, 1], NCHW. Files hold uint8 in [0, 255].
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

import numpy as np
import torch

import dnnlib
from dnnlib.errors import FileError

_Array = TypeVar("_Array", torch.Tensor, np.ndarray)
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Convert [-1, 1] to 8 bit: floor(clamp(127.5 x + 128, 0, 255)).

    Args:
        images: Floating point, any shape.

    Returns:
        uint8 of the same shape on the same device.
    """
    # float32 first: in half precision 127.5 x + 128 has a step of 1/8 and rounds across integers.
    return (images.to(torch.float32) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Convert 8 bit to [-1, 1]: x / 127.5 - 1."""
    return images.to(dtype) / 127.5 - 1


def tile_grid(images: _Array, grid_size: tuple[int, int]) -> _Array:
    """Put images side by side, row by row.

    Args:
        images: [N, C, H, W], a tensor or an array.
        grid_size: (columns, rows). Cells beyond the last image stay 0.

    Returns:
        [C, rows * H, columns * W] of the same kind and dtype.

    Raises:
        ValueError: There are more images than cells.
    """
    columns, rows = grid_size
    n, c, h, w = images.shape
    if n > columns * rows:
        raise ValueError(f"{n} images do not fit into a grid of {columns} x {rows}")
    if n < columns * rows:
        missing = (columns * rows - n, c, h, w)
        if isinstance(images, torch.Tensor):
            images = torch.cat([images, images.new_zeros(missing)])
        else:
            images = np.concatenate([images, np.zeros(missing, images.dtype)])
    grid: Any = images.reshape(rows, columns, c, h, w)
    if isinstance(grid, torch.Tensor):
        return grid.permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)
    return grid.transpose(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)


def write_image(path: str | os.PathLike[str], image: torch.Tensor | np.ndarray) -> None:
    """Write one picture; the suffix names the format. A crash leaves no half file.

    Args:
        path: For example `out/seed0000.png`; the folder must exist.
        image: uint8, [C, H, W] or [H, W, C] with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or
            4 (RGBA), or [H, W]. Where both layouts are possible a tensor is read as [C, H, W] and
            an array as [H, W, C].

    Raises:
        TypeError: Not uint8.
        ValueError: The shape is not one of those above.
        FileError: The file cannot be written, or its format does not hold such a picture.
    """
    from PIL import Image

    picture = Image.fromarray(_to_hwc(image))
    try:
        with dnnlib.util.atomic_path(path) as temporary:
            picture.save(temporary)
    except ValueError as error:  # Pillow: unknown suffix
        raise FileError(f"cannot write {os.fspath(path)!r}: {error}; use .png") from error
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"cannot write {os.fspath(path)!r}: {reason}") from error


def _to_hwc(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return [H, W, C], or [H, W] for one channel."""
    channels_first = isinstance(image, torch.Tensor)
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.dtype != np.uint8:
        raise TypeError(f"an image file holds uint8, got {array.dtype}; see to_uint8()")
    if array.ndim == 2:
        return np.ascontiguousarray(array)
    if array.ndim != 3 or (array.shape[0] not in _MODES and array.shape[2] not in _MODES):
        raise ValueError(f"not an image of 1 to 4 channels: shape {list(array.shape)}")
    if array.shape[2] not in _MODES or (channels_first and array.shape[0] in _MODES):
        array = array.transpose(1, 2, 0)
    if array.shape[2] == 1:
        array = array[:, :, 0]
    return np.ascontiguousarray(array)


def save_image_grid(
    img: torch.Tensor | np.ndarray,
    fname: str | os.PathLike[str],
    drange: tuple[float, float],
    grid_size: tuple[int, int],
) -> None:
    """Write a sheet of images: `drange` is mapped to [0, 255], rounded and clipped.

    Args:
        img: [N, C, H, W] with 1 to 4 channels, any dtype.
        fname: The file.
        drange: (lowest, highest) value, for example (-1, 1).
        grid_size: (columns, rows).
    """
    low, high = drange
    array = img.detach().cpu().numpy() if isinstance(img, torch.Tensor) else np.asarray(img)
    scaled = (array.astype(np.float32) - low) * (255 / (high - low))
    pixels = np.rint(scaled).clip(0, 255).astype(np.uint8)
    write_image(fname, tile_grid(pixels, grid_size).transpose(1, 2, 0))
