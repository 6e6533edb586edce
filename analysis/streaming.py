"""Pictures of a continuous network at any size: drawn tile by tile, written while they are drawn.

What is in memory does not depend on the number of rows: the activations of one tile, and one band
of tiles across the picture as 8-bit pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import dnnlib
from analysis.picture_streams import TIFF_HINT, WRITERS, has_tiff
from analysis.subjects import Subject
from dnnlib.progress import progress
from metrics.provenance import generator_dtype
from networks import sampling
from networks.lattice import UNIT_SQUARE
from networks.render import render_tiles
from torch_utils.images import to_uint8

MAX_SIDE = 2**18
"""Longest side of a picture in pixels: one band of tiles then takes some hundred MiB."""


@dataclass(frozen=True)
class View:
    """What to draw of an image.

    Attributes:
        size: (H, W) of the picture.
        region: (x0, y0, x1, y1), 0, 0, 1, 1 is the whole image.
        lod: How the function is sampled, see `networks.render.render_image`.
        tile_budget: Bytes of activations that may be alive at once.
        dtype: Precision of the blocks; None = each block's own.
    """

    size: tuple[int, int]
    region: tuple[int | float | Fraction, ...] = UNIT_SQUARE
    lod: str = "fixed"
    tile_budget: int = 2**27
    dtype: torch.dtype | None = None


@torch.inference_mode()
def draw_bands(
    synthesis: nn.Module,
    ws: torch.Tensor,
    view: View,
    on_pixels: Callable[[int], object] | None = None,
) -> Iterator[np.ndarray]:
    """Draws one image from top to bottom.

    Args:
        synthesis: A continuous synthesis network.
        ws: [1, num_ws, w_dim].
        view: What to draw.
        on_pixels: Called with the number of pixels of each tile that is finished.

    Yields:
        uint8 [h, W, C], together H rows.
    """
    band, top = None, 0
    how = (view.region, view.size, view.lod, view.tile_budget)
    tiles = render_tiles(synthesis, ws, *how, dtype=view.dtype)
    for tile in tiles:
        pixels = to_uint8(tile.pixels)[0].permute(1, 2, 0).cpu().numpy()
        height, width, channels = pixels.shape
        if band is not None and tile.top != top:
            yield band
            band = None
        if band is None:
            top, band = tile.top, np.empty([height, view.size[1], channels], np.uint8)
        band[:, tile.left : tile.left + width] = pixels
        if on_pixels is not None:
            on_pixels(height * width)
    if band is not None:
        yield band


def stream_picture(
    path: str | os.PathLike[str],
    synthesis: nn.Module,
    ws: torch.Tensor,
    view: View,
    format_name: str = "png",
    on_pixels: Callable[[int], object] | None = None,
) -> None:
    """Draws one image into a file without ever holding it.

    Args:
        path: The file, with the suffix of its format.
        synthesis, ws, view, on_pixels: See `draw_bands`.
        format_name: A name of `picture_streams.WRITERS`.

    Raises:
        dnnlib.UserError: The file cannot be written, or a package is missing for its format.
    """
    bands = draw_bands(synthesis, ws, view, on_pixels)
    _suffix, write = WRITERS[format_name]
    write(path, bands, view.size, synthesis.img_shape[0])


def check_request(size: tuple[int, int] | None, format_name: str) -> None:
    """Raises a `dnnlib.UserError` if no such picture can be written.

    Args:
        size: (H, W); None = the training size.
        format_name: A name of `picture_streams.WRITERS`.
    """
    if size is not None and max(size) > MAX_SIDE:
        raise dnnlib.UserError(
            f"--size={size[1]}x{size[0]} is too large: sides have up to {MAX_SIDE} pixels; draw "
            "part by part with --region."
        )
    if format_name == "tiff" and not has_tiff():
        raise dnnlib.UserError(
            f"--format=tiff needs the package tifffile ({TIFF_HINT}); --format=png does not."
        )


def projected_subjects(G: nn.Module, path: str) -> list[Subject]:
    """The images of a file of ws, as `projector.py` writes it; their seeds count its rows.

    Raises:
        dnnlib.UserError: Not such a file.
    """
    ws = sampling.load_ws(path, G).to(sampling.device_of(G))
    return [Subject(f"proj{row:02d}", row, None, w) for row, w in enumerate(ws.split(1))]


def render_subject(
    G: nn.Module, subject: Subject, view: View, folder: Path, format_name: str
) -> dict[str, Any]:
    """Draws one image into a file of its name, with a progress bar.

    Args:
        G: Continuous generator.
        subject: The image.
        view: What to draw of it.
        folder: Where the file goes.
        format_name: A name of `picture_streams.WRITERS`.

    Returns:
        What the file shows, and how long it took.

    Raises:
        dnnlib.UserError: The file cannot be written.
    """
    height, width = view.size
    path = folder / f"{subject.name}{WRITERS[format_name][0]}"
    start = time.perf_counter()
    # In thousands of pixels: a picture may be a single tile, or some millions of them.
    with progress(-(-height * width // 1000), desc=path.name, unit="kilopixel") as bar:
        done = _Thousands(bar.update)
        stream_picture(path, G.synthesis, subject.ws, view, format_name, done)
        done.finish()
    seconds = time.perf_counter() - start
    return {
        "file": path.name,
        "seed": subject.seed,
        "class": subject.label,
        "width": width,
        "height": height,
        "region": [str(edge) for edge in view.region],
        "lod": view.lod,
        "dtype": generator_dtype(G, {"dtype": view.dtype}, sampling.device_of(G)),
        "seconds": seconds,
        "megapixels_per_second": height * width / seconds / 1e6,
    }


class _Thousands:
    """Counts pixels and reports whole thousands of them."""

    def __init__(self, report: Callable[[int], object]) -> None:
        self._report = report
        self._rest = 0

    def __call__(self, num_pixels: int) -> None:
        thousands, self._rest = divmod(self._rest + num_pixels, 1000)
        self._report(thousands)

    def finish(self) -> None:
        """Reports what is left, rounded up."""
        if self._rest:
            self._report(1)
