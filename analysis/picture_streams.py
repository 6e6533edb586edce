"""Writers of pictures that are larger than the memory: PNG, TIFF, DeepZoom.

A picture comes as bands: uint8 arrays [h, W, C], from top to bottom, each of any height, together
H rows. A writer keeps a few rows at a time. Nothing half-written is left under the final name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import dnnlib
from dnnlib.errors import FileError

Bands = Iterable[np.ndarray]

TIFF_HINT = "pip install tifffile"
_PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
# Rows that are filtered at a time: temporary arrays stay small.
_PNG_ROWS = 32
_PNG_CHUNK_BYTES = 2**20
_TIFF_TILE = 256
# Offsets of a classic TIFF have 32 bits; some room is left for its tables.
_TIFF_CLASSIC_BYTES = 2**32 - 2**26
_DEEPZOOM_TILE = 256


def regroup(bands: Bands, num_rows: int) -> Iterator[np.ndarray]:
    """The same rows in bands of exactly num_rows, but for the last one."""
    held: list[np.ndarray] = []
    count = 0
    for band in bands:
        while count + len(band) >= num_rows:
            part, band = np.split(band, [num_rows - count])
            yield np.concatenate([*held, part])
            held, count = [], 0
        if len(band):
            held.append(band)
            count += len(band)
    if held:
        yield np.concatenate(held)


def write_png(
    path: str | os.PathLike[str], bands: Bands, size: tuple[int, int], channels: int
) -> None:
    """Write a PNG file (ISO/IEC 15948), 8 bits per channel, row by row.

    Args:
        path: The file.
        bands: See the module.
        size: (H, W).
        channels: 1 to 4: grey, grey and alpha, RGB, RGBA.

    Raises:
        FileError: The file cannot be written.
    """
    height, width = size
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    with (
        _file_errors(path),
        dnnlib.util.atomic_path(path) as temporary,
        open(temporary, "wb") as file,
    ):
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(_png_chunk(b"IHDR", header))
        packer, packed = zlib.compressobj(6, strategy=zlib.Z_FILTERED), bytearray()
        above = np.zeros([1, width * channels], np.uint8)
        for rows in regroup(bands, _PNG_ROWS):
            rows = rows.reshape(len(rows), -1)
            packed += packer.compress(_png_filtered(rows, above, channels))
            above = rows[-1:].copy()
            if len(packed) >= _PNG_CHUNK_BYTES:
                file.write(_png_chunk(b"IDAT", bytes(packed)))
                packed.clear()
        file.write(_png_chunk(b"IDAT", bytes(packed + packer.flush())))
        file.write(_png_chunk(b"IEND", b""))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png_filtered(rows: np.ndarray, above: np.ndarray, channels: int) -> bytes:
    """Rows [n, B] as differences to the left or to the row above, whichever is smaller in sum."""
    up = rows - np.concatenate([above, rows[:-1]])
    sub = rows.copy()
    sub[:, channels:] -= rows[:, :-channels]
    sums = [np.abs(part.view(np.int8).astype(np.int16)).sum(1, np.int64) for part in (sub, up)]
    is_up = sums[1] < sums[0]
    # Filter types of the standard: 1 = sub, 2 = up.
    kinds = (is_up + 1).astype(np.uint8)[:, None]
    return np.concatenate([kinds, np.where(is_up[:, None], up, sub)], 1).tobytes()


def write_tiff(
    path: str | os.PathLike[str], bands: Bands, size: tuple[int, int], channels: int
) -> None:
    """Write a TIFF file of compressed tiles, a BigTIFF where 32-bit offsets could not do.

    Args: as `write_png`.

    Raises:
        ImportError: The package tifffile is not installed, see `has_tiff`.
        FileError: The file cannot be written.
    """
    import tifffile

    height, width = size
    options: dict[str, Any] = {
        "shape": (height, width) if channels == 1 else (height, width, channels),
        "photometric": "rgb" if channels >= 3 else "minisblack",
        "planarconfig": None if channels == 1 else "contig",
        "extrasamples": None if channels in (1, 3) else ["unassalpha"],
    }
    big = height * width * channels > _TIFF_CLASSIC_BYTES
    with (
        _file_errors(path),
        dnnlib.util.atomic_path(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=big) as writer,
    ):
        writer.write(
            _tiles(bands, channels),
            dtype=np.uint8,
            tile=(_TIFF_TILE, _TIFF_TILE),
            compression="zlib",
            predictor=False,
            metadata=None,
            **options,
        )


def has_tiff() -> bool:
    """Whether the package for TIFF files is there."""
    return importlib.util.find_spec("tifffile") is not None


def _tiles(bands: Bands, channels: int) -> Iterator[np.ndarray]:
    """Full tiles in row-major order; what is missing at the right and the bottom is 0."""
    side = _TIFF_TILE
    for rows in regroup(bands, side):
        for left in range(0, rows.shape[1], side):
            part = rows[:, left : left + side]
            missing = [(0, side - length) for length in part.shape[:2]]
            tile = np.pad(part, [*missing, (0, 0)])
            yield tile[:, :, 0] if channels == 1 else tile


def write_deepzoom(
    path: str | os.PathLike[str], bands: Bands, size: tuple[int, int], channels: int
) -> None:
    """Write a DeepZoom picture: NAME.dzi beside a folder NAME_files of PNG tiles at every zoom.

    Each level is the one above at half the size, by averages of 2 x 2 pixels.

    Args: as `write_png`.

    Raises:
        FileError: It cannot be written, or the folder of tiles is already there.
    """
    path, (height, width) = Path(path), size
    folder = path.with_name(f"{path.stem}_files")
    if folder.exists():
        raise FileError(f"{str(folder)!r} is already there; remove it, or use another folder")
    temporary = folder.with_name(f".{uuid.uuid4().hex}.{folder.name}")
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="png" Overlap="0" '
        f'TileSize="{_DEEPZOOM_TILE}"><Size Width="{width}" Height="{height}"/></Image>\n'
    )
    with _file_errors(path):
        try:
            level = _DeepZoomLevel(temporary, (max(size) - 1).bit_length())
            for rows in regroup(bands, _DEEPZOOM_TILE):
                level.add(rows)
            level.finish()
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        with dnnlib.util.atomic_path(path) as unfinished:
            Path(unfinished).write_text(text, encoding="utf-8")


class _DeepZoomLevel:
    """One zoom of a DeepZoom picture, and all below it.

    Args:
        folder: Of all levels.
        index: Number of the level; level 0 is one pixel.
    """

    def __init__(self, folder: Path, index: int) -> None:
        self._folder = folder / str(index)
        self._folder.mkdir(parents=True)
        self._below = _DeepZoomLevel(folder, index - 1) if index else None
        self._held: list[np.ndarray] = []
        self._num_held = 0
        self._num_written = 0

    def add(self, rows: np.ndarray) -> None:
        """Take further rows [h, W, C]; h is even but at the lower end of the picture."""
        self._held.append(rows)
        self._num_held += len(rows)
        if self._num_held >= _DEEPZOOM_TILE:
            self._write()

    def finish(self) -> None:
        """Write what is still held, here and below."""
        if self._held:
            self._write()
        if self._below is not None:
            self._below.finish()

    def _write(self) -> None:
        for rows in regroup(self._held, _DEEPZOOM_TILE):
            for column, left in enumerate(range(0, rows.shape[1], _DEEPZOOM_TILE)):
                tile = rows[:, left : left + _DEEPZOOM_TILE]
                tile = tile[:, :, 0] if tile.shape[2] == 1 else tile
                picture = Image.fromarray(np.ascontiguousarray(tile))
                picture.save(self._folder / f"{column}_{self._num_written}.png")
            self._num_written += 1
            if self._below is not None:
                self._below.add(_halved(rows))
        self._held, self._num_held = [], 0


def _halved(rows: np.ndarray) -> np.ndarray:
    """Averages of 2 x 2 pixels, rounded; a last odd row or column is averaged with itself."""
    height, width = rows.shape[:2]
    rows = np.pad(rows, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge").astype(np.uint16)
    total = rows[0::2, 0::2] + rows[0::2, 1::2] + rows[1::2, 0::2] + rows[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


@contextlib.contextmanager
def _file_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"cannot write {os.fspath(path)!r}: {reason}") from error


WRITERS: dict[str, tuple[str, Callable[..., None]]] = {
    "png": (".png", write_png),
    "tiff": (".tif", write_tiff),
    "deepzoom": (".dzi", write_deepzoom),
}
"""Suffix and writer of each format, by its name."""
