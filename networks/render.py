"""Evaluates a continuous image: any region at any size, tile by tile, or any points.

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
from networks.levels import (
    FARTHEST_POINT,
    GridLevel,
    PointLevel,
    exact_dtype,
    grid_levels,
    point_levels,
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
    * `evaluate(theta, levels, force_fp32, dtype)`: F at the points of a plan, [N, C, H, W].
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
        levels = grid_levels(*self.training_levels())
        return self.evaluate(self.compose(ws), levels, force_fp32, dtype)

    def render(
        self,
        ws: Tensor,
        region: Sequence[int | float | Fraction] = UNIT_SQUARE,
        size: int | tuple[int, int] | None = None,
        lod: str = "fixed",
        tile_budget: int = 2**28,
        force_fp32: bool = False,
        dtype: torch.dtype | None = None,
        points: Tensor | None = None,
    ) -> Tensor:
        """Renders any region of the image at any size, or any points of it.

        Args:
            ws: [N, num_ws, w_dim].
            region, size, lod, tile_budget, force_fp32, dtype: See `render_image`.
            points: [P, 2] for all images or [N, P, 2], (x, y), see `render_points`; instead of
                region, size and lod.

        Returns:
            Image [N, C, H, W]; values at points [N, C, P]. float32.

        Raises:
            ValueError, TypeError: As `render_image` and `render_points`; points together with a
                region, size or lod.
        """
        if points is None:
            return render_image(self, ws, region, size, lod, tile_budget, force_fp32, dtype)
        if size is not None or lod != "fixed" or tuple(region) != UNIT_SQUARE:
            raise ValueError("points do not go together with a region, a size or a lod")
        return render_points(self, ws, points, tile_budget, force_fp32, dtype)


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

    def plan(row_slice: Points, col_slice: Points) -> list[GridLevel]:
        return grid_levels(
            axis_levels(row_slice, heights, sampling, tables[0]),
            axis_levels(col_slice, widths, sampling, tables[1]),
        )

    tile_height, tile_width = height, width
    while tile_height * tile_width > 1:
        # Every tile reads about as many cells as the first one.
        levels = plan(rows[:tile_height], cols[:tile_width])
        if activation_bytes(synthesis, ws.shape[0], levels) <= tile_budget:
            break
        if tile_height >= tile_width:
            tile_height = -(-tile_height // 2)
        else:
            tile_width = -(-tile_width // 2)
    for top in range(0, height, tile_height):
        for left in range(0, width, tile_width):
            levels = plan(rows[top : top + tile_height], cols[left : left + tile_width])
            pixels = synthesis.evaluate(theta, levels, force_fp32=force_fp32, dtype=dtype)
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


def activation_bytes(synthesis: Any, batch: int, levels: Sequence[GridLevel | PointLevel]) -> int:
    """Bytes of activations alive at once in the most demanding level of a plan."""
    return max(
        4 * batch * level.num_points() * channels
        for level, channels in zip(levels, synthesis.live_channels(_LIVE_ACTIVATIONS))
    )


def render_points(
    synthesis: nn.Module,
    ws: Tensor,
    points: Tensor,
    tile_budget: int = 2**28,
    force_fp32: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """F at any points, differentiable with respect to ws and, where F is smooth, to the points.

    F of a nearest network is constant plus what its last block makes of p itself within a cell:
    the gradient is that of the cell. float64 points are the most exact; the cells are found in
    float64 in any case.

    Args:
        synthesis: A continuous synthesis network.
        ws: [N, num_ws, w_dim].
        points: Floating point [P, 2] for all images or [N, P, 2], (x, y), x right, y down, the
            unit square is the whole image. Images with points of their own are drawn one by one.
        tile_budget: Bytes of activations that may be alive at once; with gradients, each part of
            the points keeps its own until the backward pass.
        force_fp32: Run every block in float32; wins over `dtype`.
        dtype: Precision of the blocks; None = each block's own.

    Returns:
        [N, C, P], float32, about [-1, 1].

    Raises:
        ValueError: Points of another shape, not finite or farther away than `FARTHEST_POINT`.
        TypeError: Points that are no floating point tensor.
    """
    _check_points(points, ws.shape[0])
    if points.ndim == 3:
        settings = (tile_budget, force_fp32, dtype)
        pairs = zip(ws.split(1), points.unbind(0))
        return torch.cat([render_points(synthesis, w, own, *settings) for w, own in pairs])
    points = points.to(exact_dtype(ws.device)).to(ws.device)
    sides = synthesis.lattices()
    theta = synthesis.measure(synthesis.compose(ws), tile_budget, force_fp32, dtype)
    num_bytes = 4 * ws.shape[0] * synthesis.live_channels(_LIVE_ACTIVATIONS)[-1]
    pending = list(points.split(max(1, tile_budget // num_bytes)))[::-1]
    parts = []
    while pending:
        part = pending.pop()
        levels = point_levels(part, sides, synthesis.sampling, synthesis.has_tables)
        if len(part) > 1 and activation_bytes(synthesis, ws.shape[0], levels) > tile_budget:
            pending += part.split(-(-len(part) // 2))[::-1]
            continue
        parts.append(synthesis.evaluate(theta, levels, force_fp32=force_fp32, dtype=dtype)[:, :, 0])
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _check_points(points: Tensor, num_images: int) -> None:
    if not isinstance(points, Tensor) or not points.is_floating_point():
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"points must be a floating point tensor, got {kind}")
    shape = list(points.shape)
    if points.ndim not in (2, 3) or shape[-1] != 2 or points.shape[-2] == 0:
        raise ValueError(f"points must be [P, 2] or [N, P, 2] with P of at least 1, got {shape}")
    if points.ndim == 3 and shape[0] != num_images:
        raise ValueError(f"points {shape} are for {shape[0]} images, but ws for {num_images}")
    # False for nan.
    if not bool(points.detach().abs().max() <= FARTHEST_POINT):
        raise ValueError(f"coordinates must be finite and at most {FARTHEST_POINT} images away")
