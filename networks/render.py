"""Evaluates any region of a continuous image at any size, tile by tile.

Works for every synthesis network that offers `img_shape`, `upsampling`, `lattices()`,
`live_channels(n)`, `compose(ws)` and `evaluate(theta, rows, cols)`; knows nothing else about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from networks.lattice import (
    UNIT_SQUARE,
    AxisLevel,
    Points,
    axis_levels,
    grid_points,
    scaled_lattices,
    snap,
)

# Activations alive at once while a tile goes through a layer: input, product, sum, output.
_LIVE_ACTIVATIONS = 4


class RenderTile(NamedTuple):
    """A finished part of a rendered picture.

    Attributes:
        top: First row in the output picture.
        left: First column.
        pixels: float32 [N, C, h, w].
    """

    top: int
    left: int
    pixels: Tensor


def render_image(
    synthesis: nn.Module,
    ws: Tensor,
    region: Sequence[int | float | Fraction] = UNIT_SQUARE,
    size: int | tuple[int, int] | None = None,
    lod: str = "fixed",
    tile_budget: int = 2**28,
    force_fp32: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Samples F at H x W pixel centres of a region: p = (x0 + (j + 1/2) (x1 - x0) / W, ...).

    Args:
        synthesis: A continuous synthesis network.
        ws: [N, num_ws, w_dim].
        region: (x0, y0, x1, y1), x right, y down, the unit square is the whole image; also
            outside of it. Floats stand for the nearest fraction with denominator <= 2**20.
        size: (H, W) of the output, or one int for both; None = training size.
        lod: "fixed" samples the same F whatever the size; "scaled" resizes the pyramid of
            lattices with the sampling rate (the paper's variant: cheaper thumbnails, other cells).
        tile_budget: Bytes of activations that may be alive at once.
        force_fp32: Run every block in float32; wins over `dtype`.
        dtype: Precision of the blocks; None = each block's own.

    Returns:
        Image [N, C, H, W], float32, about [-1, 1].

    Raises:
        ValueError: If the region has no area, the size is not positive or lod is unknown.
    """
    height, width = _render_size(synthesis, size)
    size = height, width
    tiles = render_tiles(synthesis, ws, region, size, lod, tile_budget, force_fp32, dtype)
    image = None
    for top, left, pixels in tiles:
        if tuple(pixels.shape[2:]) == (height, width):
            return pixels
        if image is None:
            image = pixels.new_empty([*pixels.shape[:2], height, width])
        image[:, :, top : top + pixels.shape[2], left : left + pixels.shape[3]] = pixels
    return image


def render_tiles(
    synthesis: nn.Module,
    ws: Tensor,
    region: Sequence[int | float | Fraction] = UNIT_SQUARE,
    size: int | tuple[int, int] | None = None,
    lod: str = "fixed",
    tile_budget: int = 2**28,
    force_fp32: bool = False,
    dtype: torch.dtype | None = None,
) -> Iterator[RenderTile]:
    """Like `render_image`, but yields tiles in row-major order and never holds the picture.

    The weights are composed once. Memory is bounded by `tile_budget` plus one tile.
    """
    height, width = _render_size(synthesis, size)
    x0, y0, x1, y1 = _render_region(region)
    heights, widths = synthesis.lattices()
    if lod == "scaled":
        heights = scaled_lattices(heights, abs(height / (y1 - y0)))
        widths = scaled_lattices(widths, abs(width / (x1 - x0)))
    elif lod != "fixed":
        raise ValueError(f"lod must be 'fixed' or 'scaled', got {lod!r}")
    rows, cols = grid_points(y0, y1, height), grid_points(x0, x1, width)
    theta = synthesis.compose(ws)

    def plan(row_slice: Points, col_slice: Points) -> tuple[list[AxisLevel], list[AxisLevel]]:
        return (
            axis_levels(row_slice, heights, synthesis.upsampling),
            axis_levels(col_slice, widths, synthesis.upsampling),
        )

    tile_height, tile_width = height, width
    while tile_height * tile_width > 1:
        # Every tile reads about as many cells as the first one.
        levels = plan(rows[:tile_height], cols[:tile_width])
        if _tile_bytes(synthesis, ws.shape[0], *levels) <= tile_budget:
            break
        if tile_height >= tile_width:
            tile_height = -(-tile_height // 2)
        else:
            tile_width = -(-tile_width // 2)
    for top in range(0, height, tile_height):
        for left in range(0, width, tile_width):
            levels = plan(rows[top : top + tile_height], cols[left : left + tile_width])
            pixels = synthesis.evaluate(theta, *levels, force_fp32=force_fp32, dtype=dtype)
            yield RenderTile(top, left, pixels)


def _render_size(synthesis: Any, size: int | Sequence[int] | None) -> tuple[int, int]:
    if size is None:
        return synthesis.img_shape[1], synthesis.img_shape[2]
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 x 1 pixels, got {height} x {width} (H x W)")
    return int(height), int(width)


def _render_region(region: Sequence[int | float | Fraction]) -> tuple[Fraction, ...]:
    if len(region) != 4:
        raise ValueError(f"region must be (x0, y0, x1, y1), got {tuple(region)}")
    x0, y0, x1, y1 = (snap(value) for value in region)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"region must have x0 < x1 and y0 < y1, got ({x0}, {y0}, {x1}, {y1})")
    return x0, y0, x1, y1


def _tile_bytes(
    synthesis: Any, batch: int, rows: Sequence[AxisLevel], cols: Sequence[AxisLevel]
) -> int:
    """Bytes of activations alive at once in the most demanding block of a tile."""
    return max(
        4 * batch * len(row.points) * len(col.points) * channels
        for row, col, channels in zip(rows, cols, synthesis.live_channels(_LIVE_ACTIVATIONS))
    )
