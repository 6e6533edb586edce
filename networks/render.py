"""Evaluates a continuous image: any region at any size, tile by tile, or any points.

Works for every `ContinuousSynthesis`; knows nothing else about the network. Written for images,
that is for two coordinates; signals of one or three are drawn by the same functions, with sizes
(W,) or (D, H, W), regions (x0, x1) or (x0, y0, z0, x1, y1, z1), and points (x) or (x, y, z).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from networks.lattice import (
    UNIT_SQUARE,
    AxisLevel,
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
    * `lattices()`: cells of every level at training size, vertically and horizontally (one tuple
      per axis, in the order of a tensor's dimensions);
    * `live_channels(n)`: channels alive at once per level if n activations of a layer are;
    * `compose(ws)`: theta, the weights for a batch of images;
    * `evaluate(theta, levels, force_fp32, dtype)`: F at the points of a plan, [N, C, H, W].
    """

    img_shape: tuple[int, ...]
    block_resolutions: list[int]

    has_tables = False
    """Whether blocks read tables with one entry per cell of their lattice at training size."""

    def blocks(self) -> list[Any]:
        """The blocks, coarse to fine."""
        return [getattr(self, f"b{resolution}") for resolution in self.block_resolutions]

    def training_levels(self) -> tuple[tuple[AxisLevel, ...], ...]:
        """The plans of the training grid: vertical axis and horizontal axis."""
        return tuple(
            unit_square_levels(tuple(cells), self.sampling, self.has_tables)
            for cells in self.lattices()
        )

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
        region: Sequence[int | float | Fraction] | None = None,
        size: int | tuple[int, ...] | None = None,
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
        is_whole = region is None or tuple(region) == UNIT_SQUARE
        if size is not None or lod != "fixed" or not is_whole:
            raise ValueError("points do not go together with a region, a size or a lod")
        return render_points(self, ws, points, tile_budget, force_fp32, dtype)


def render_image(
    synthesis: nn.Module,
    ws: Tensor,
    region: Sequence[int | float | Fraction] | None = None,
    size: int | tuple[int, ...] | None = None,
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
        region: (x0, y0, x1, y1), x right, y down, the unit square is the whole image (None); also
            outside of it. Floats stand for the nearest fraction with denominator <= 2**20.
        size: (H, W) of the output, or one int for all sides; None = training size.
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
    size = _render_size(synthesis, size)
    parts = _render_parts(synthesis, ws, region, size, lod, tile_budget, force_fp32, dtype)
    image = None
    for corner, pixels in parts:
        if tuple(pixels.shape[2:]) == size:
            return pixels
        if image is None:
            image = pixels.new_empty([*pixels.shape[:2], *size])
        ranges = zip(corner, pixels.shape[2:])
        image[(..., *[slice(first, first + count) for first, count in ranges])] = pixels
    return image


def render_tiles(
    synthesis: nn.Module,
    ws: Tensor,
    region: Sequence[int | float | Fraction] | None = None,
    size: int | tuple[int, int] | None = None,
    lod: str = "fixed",
    tile_budget: int = 2**28,
    force_fp32: bool = False,
    dtype: torch.dtype | None = None,
) -> Iterator[RenderTile]:
    """Like `render_image`, but yields tiles in row-major order and never holds the picture.

    The weights are composed once. Memory is bounded by `tile_budget` plus one tile (and, where
    constants are measured on the training grid, by what one image of training size takes). Images
    only: two coordinates.
    """
    size = _render_size(synthesis, size)
    if len(size) != 2:
        raise ValueError(f"tiles are parts of images, of two coordinates; this has {len(size)}")
    parts = _render_parts(synthesis, ws, region, size, lod, tile_budget, force_fp32, dtype)
    for (top, left), pixels in parts:
        yield RenderTile(top, left, pixels)


def _render_parts(
    synthesis: nn.Module,
    ws: Tensor,
    region: Sequence[int | float | Fraction] | None,
    size: tuple[int, ...],
    lod: str,
    tile_budget: int,
    force_fp32: bool,
    dtype: torch.dtype | None,
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """`render_tiles` for any number of coordinates: (first row, first column, ...), pixels."""
    ends = _render_region(region, len(size))
    lattices = list(synthesis.lattices())
    if lod == "scaled":
        for axis, (start, stop) in enumerate(ends):
            lattices[axis] = scaled_lattices(lattices[axis], abs(size[axis] / (stop - start)))
    elif lod != "fixed":
        raise ValueError(f"lod must be 'fixed' or 'scaled', got {lod!r}")
    sampling: Sampling = synthesis.sampling
    tables = synthesis.lattices() if synthesis.has_tables else (None,) * len(size)
    axes = [grid_points(*span, count, sampling.offset) for span, count in zip(ends, size)]
    theta = synthesis.measure(synthesis.compose(ws), tile_budget, force_fp32, dtype)

    def plan(corner: Sequence[int]) -> list[GridLevel]:
        return grid_levels(
            *[
                axis_levels(points[first : first + count], cells, sampling, entries)
                for points, first, count, cells, entries in zip(
                    axes, corner, tile, lattices, tables
                )
            ]
        )

    tile = list(size)
    while math.prod(tile) > 1:
        # Every tile reads about as many cells as the first one.
        levels = plan([0] * len(size))
        if activation_bytes(synthesis, ws.shape[0], levels) <= tile_budget:
            break
        longest = tile.index(max(tile))
        tile[longest] = -(-tile[longest] // 2)
    for corner in product(*[range(0, count, step) for count, step in zip(size, tile)]):
        yield corner, synthesis.evaluate(theta, plan(corner), force_fp32=force_fp32, dtype=dtype)


_SIZE_WORDS = (
    "a tuple (W,) of one integer",
    "a pair (H, W) of integers",
    "three integers (D, H, W)",
)


def _render_size(synthesis: Any, size: int | Sequence[int] | None) -> tuple[int, ...]:
    if size is None:
        return tuple(synthesis.img_shape[1:])
    num = len(synthesis.img_shape) - 1
    sides = (size,) * num if is_integer(size) else tuple(size) if isinstance(size, Iterable) else ()
    if len(sides) != num or not all(is_integer(side) for side in sides):
        raise TypeError(f"size must be an integer or {_SIZE_WORDS[num - 1]}, got {size!r}")
    sides = tuple(operator.index(side) for side in sides)
    if min(sides) < 1:
        smallest, given = (" x ".join(map(str, shape)) for shape in ((1,) * num, sides))
        order = " x ".join("DHW"[-num:])
        raise ValueError(f"size must be at least {smallest} pixels, got {given} ({order})")
    return sides


def _render_region(
    region: Sequence[int | float | Fraction] | None, num: int
) -> list[tuple[Fraction, Fraction]]:
    """(start, stop) of every axis, in the order of a tensor's dimensions."""
    if region is None:
        return [(Fraction(0), Fraction(1))] * num
    names = "xyz"[:num]
    if len(region) != 2 * num:
        entries = ", ".join([f"{name}0" for name in names] + [f"{name}1" for name in names])
        raise ValueError(f"region must be ({entries}), got {tuple(region)}")
    edges = [snap(value) for value in region]
    ends = list(zip(edges[:num], edges[num:]))
    if any(start >= stop for start, stop in ends):
        rule = " and ".join(f"{name}0 < {name}1" for name in names)
        raise ValueError(f"region must have {rule}, got ({', '.join(map(str, edges))})")
    return ends[::-1]


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
            As many columns as F has coordinates.
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
    _check_points(points, ws.shape[0], len(synthesis.img_shape) - 1)
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


def _check_points(points: Tensor, num_images: int, num: int) -> None:
    if not isinstance(points, Tensor) or not points.is_floating_point():
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"points must be a floating point tensor, got {kind}")
    shape = list(points.shape)
    if points.ndim not in (2, 3) or shape[-1] != num or points.shape[-2] == 0:
        wanted = f"[P, {num}] or [N, P, {num}] with P of at least 1"
        raise ValueError(f"points must be {wanted}, got {shape}")
    if points.ndim == 3 and shape[0] != num_images:
        raise ValueError(f"points {shape} are for {shape[0]} images, but ws for {num_images}")
    # False for nan.
    if not bool(points.detach().abs().max() <= FARTHEST_POINT):
        raise ValueError(f"coordinates must be finite and at most {FARTHEST_POINT} images away")
