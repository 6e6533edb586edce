"""Evaluates any region of a continuous image at any size, tile by tile.

Works for every `ContinuousSynthesis`; knows nothing else about the network.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from networks.lattice import (
    UNIT_SQUARE,
    AxisLevel,
    Points,
    Sampling,
    axis_levels,
    grid_points,
    is_integer,
    scaled_lattices,
    snap,
    unit_square_levels,
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


class ContinuousSynthesis(nn.Module):
    """What all continuous synthesis networks have in common: drawing, once their parts exist.

    A subclass has the attributes `img_shape` (C, H, W) and `block_resolutions` (one block
    `b{resolution}` each) and defines

    * `sampling`: how its lattices lie (a property: snapshots hold plain values only);
    * `lattices()`: cells of every level at training size, vertically and horizontally;
    * `live_channels(n)`: channels alive at once per level if n activations of a layer are;
    * `compose(ws)`: theta, the weights for a batch of images;
    * `evaluate(theta, rows, cols, force_fp32, dtype)`: F on a product grid, [N, C, H, W].
    """

    img_shape: tuple[int, int, int]
    block_resolutions: list[int]

    has_tables = False
    """Whether blocks read tables with one entry per cell of their lattice at training size."""

    def blocks(self) -> list[Any]:
        """The blocks, coarse to fine."""
        return [getattr(self, f"b{resolution}") for resolution in self.block_resolutions]

    def training_levels(self) -> tuple[tuple[AxisLevel, ...], tuple[AxisLevel, ...]]:
        """The plans of the training grid: vertical axis and horizontal axis."""
        heights, widths = self.lattices()
        rows = unit_square_levels(tuple(heights), self.sampling, self.has_tables)
        return rows, unit_square_levels(tuple(widths), self.sampling, self.has_tables)

    def measure(
        self, theta: Any, tile_budget: int, force_fp32: bool, dtype: torch.dtype | None
    ) -> Any:
        """Completes theta by constants that depend on the whole training grid; here: none."""
        return theta

    def forward(
        self,
        ws: Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        update_emas: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Renders the unit square at training size.

        Args:
            ws: [N, num_ws, w_dim].
            noise_mode, fused_modconv, update_emas: Accepted for StyleGAN2's callers, no meaning.
            force_fp32: Run every block in float32; wins over `dtype`.
            dtype: Precision of the blocks; None = each block's own.

        Returns:
            Image [N, C, H, W], float32, about [-1, 1].
        """
        return self.evaluate(self.compose(ws), *self.training_levels(), force_fp32, dtype)

    def render(
        self,
        ws: Tensor,
        region: Sequence[int | float | Fraction] = UNIT_SQUARE,
        size: int | tuple[int, int] | None = None,
        lod: str = "fixed",
        tile_budget: int = 2**28,
        force_fp32: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Renders any region of the image at any size. See `networks.render.render_image`."""
        return render_image(self, ws, region, size, lod, tile_budget, force_fp32, dtype)


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
    """Samples F at H x W points of a region: p = (x0 + (j + o) (x1 - x0) / W, ...).

    o = 1/2 (pixel centres) for this project's own presets, 0 for the published ones.

    Args:
        synthesis: A continuous synthesis network.
        ws: [N, num_ws, w_dim].
        region: (x0, y0, x1, y1), x right, y down, the unit square is the whole image; also
            outside of it. Floats stand for the nearest fraction with denominator <= 2**20.
        size: (H, W) of the output, or one int for both; None = training size.
        lod: "fixed" samples the same F whatever the size; "scaled" resizes the pyramid of
            lattices with the sampling rate (the paper's variant: cheaper thumbnails, other cells).
            Tables stay as they are and are read at the new cells' sample points.
        tile_budget: Bytes of activations that may be alive at once.
        force_fp32: Run every block in float32; wins over `dtype`.
        dtype: Precision of the blocks; None = each block's own.

    Returns:
        Image [N, C, H, W], float32, about [-1, 1].

    Raises:
        ValueError: If the region has no area, the size is not positive or lod is unknown.
        TypeError: If size or region hold something else than numbers.
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

    The weights are composed once. Memory is bounded by `tile_budget` plus one tile (and, where
    constants are measured on the training grid, by what one image of training size takes).
    """
    height, width = _render_size(synthesis, size)
    x0, y0, x1, y1 = _render_region(region)
    heights, widths = synthesis.lattices()
    if lod == "scaled":
        heights = scaled_lattices(heights, abs(height / (y1 - y0)))
        widths = scaled_lattices(widths, abs(width / (x1 - x0)))
    elif lod != "fixed":
        raise ValueError(f"lod must be 'fixed' or 'scaled', got {lod!r}")
    sampling: Sampling = synthesis.sampling
    tables = synthesis.lattices() if synthesis.has_tables else (None, None)
    rows = grid_points(y0, y1, height, sampling.offset)
    cols = grid_points(x0, x1, width, sampling.offset)
    theta = synthesis.measure(synthesis.compose(ws), tile_budget, force_fp32, dtype)

    def plan(row_slice: Points, col_slice: Points) -> tuple[list[AxisLevel], list[AxisLevel]]:
        return (
            axis_levels(row_slice, heights, sampling, tables[0]),
            axis_levels(col_slice, widths, sampling, tables[1]),
        )

    tile_height, tile_width = height, width
    while tile_height * tile_width > 1:
        # Every tile reads about as many cells as the first one.
        levels = plan(rows[:tile_height], cols[:tile_width])
        if activation_bytes(synthesis, ws.shape[0], *levels) <= tile_budget:
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
    pair = (size, size) if is_integer(size) else tuple(size) if isinstance(size, Iterable) else ()
    if len(pair) != 2 or not all(is_integer(side) for side in pair):
        raise TypeError(f"size must be an integer or a pair (H, W) of integers, got {size!r}")
    height, width = (operator.index(side) for side in pair)
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 x 1 pixels, got {height} x {width} (H x W)")
    return height, width


def _render_region(region: Sequence[int | float | Fraction]) -> tuple[Fraction, ...]:
    if len(region) != 4:
        raise ValueError(f"region must be (x0, y0, x1, y1), got {tuple(region)}")
    x0, y0, x1, y1 = (snap(value) for value in region)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"region must have x0 < x1 and y0 < y1, got ({x0}, {y0}, {x1}, {y1})")
    return x0, y0, x1, y1


def activation_bytes(
    synthesis: Any, batch: int, rows: Sequence[AxisLevel], cols: Sequence[AxisLevel]
) -> int:
    """Bytes of activations alive at once in the most demanding level of a tile."""
    return max(
        4 * batch * len(row.points) * len(col.points) * channels
        for row, col, channels in zip(rows, cols, synthesis.live_channels(_LIVE_ACTIVATIONS))
    )
