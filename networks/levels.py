"""Where the blocks of a continuous network are evaluated: on a product grid, or at single points.

A level belongs to one lattice. It knows the points at which the block there is evaluated, and how
they read the block below. `GridLevel` is the product of two axes, planned with exact fractions by
`networks.lattice`. `PointLevel` holds P points anywhere; all tensors that belong to it are
[..., 1, P], as of a picture of one row. Both also exist with one and with three coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from networks.fourier import axis_taps, point_waves
from networks.lattice import AxisLevel, Sampling, cell_points, cell_taps
from ops.fourier import fourier
from ops.inr_layer import AxisTaps, PointTaps

FARTHEST_POINT = 2**20
"""Points may be so many images away; farther out, float64 hardly tells cells apart."""

# A point this close to its cell's right end, in cells, counts as on it: a point such as 2/98 is
# rounded, and times 98 it may be less than 2.
_LEVEL_ROUNDING = 2.0**-32


def exact_dtype(device: torch.device) -> torch.dtype:
    """The most exact floating point type of a device: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class GridLevel(NamedTuple):
    """H x W points, the product of two axes; or W points, or D x H x W.

    Attributes:
        rows: Vertical axis; None with one coordinate.
        cols: Horizontal axis.
        slices: The axis of a third coordinate, z.
    """

    rows: AxisLevel | None
    cols: AxisLevel
    slices: AxisLevel | None = None

    def axes(self) -> list[AxisLevel]:
        """The axes in the order of a tensor's dimensions."""
        return [axis for axis in (self.slices, self.rows, self.cols) if axis is not None]

    def coords(self) -> list[np.ndarray]:
        """The coordinates x, y, z, as many as there are, along their axes: float64 [W], ..."""
        return [axis.points for axis in reversed(self.axes())]

    @property
    def x(self) -> np.ndarray:
        """Horizontal coordinates, float64 [W]."""
        return self.cols.points

    @property
    def y(self) -> np.ndarray:
        """Vertical coordinates, float64 [H]."""
        return self.rows.points

    def num_points(self) -> int:
        """Number of points."""
        return math.prod(len(axis.points) for axis in self.axes())

    def taps(self, device: torch.device) -> tuple[AxisTaps, ...] | None:
        """How the points read the block below, as `ops.inr_layer` takes it; None = they do not."""
        if self.cols.taps is None:
            return None
        return tuple(axis_taps(axis.taps, device) for axis in self.axes())

    def table_taps(self, device: torch.device) -> tuple[AxisTaps, ...] | None:
        """How the points read a table of the block; None = entry by entry."""
        if all(axis.lookup.is_identity() for axis in self.axes()):
            return None
        return tuple(axis_taps(axis.lookup, device) for axis in self.axes())

    def mesh(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Functions of x and of y alone, [W] and [H], as tensors that broadcast to [H, W]."""
        return u[None, :], v[:, None]

    def waves(self, u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None = None) -> Tensor:
        """sin and cos of rows_u u + rows_v v + phase, [..., 2k, H, W]. See `ops.fourier`."""
        return fourier(u, v, rows, phase)


class PointLevel(NamedTuple):
    """P points anywhere.

    Attributes:
        points: float64 [P, 2], (x, y), or [P, d]; may carry a gradient.
        reads: Taps into the evaluated cells of the block below; None for the first block.
        lookup: Taps into a table with one entry per cell of the block's lattice at training size;
            None if the plan was made without tables.
    """

    points: Tensor
    reads: PointTaps | None
    lookup: PointTaps | None = None

    @property
    def x(self) -> Tensor:
        """Horizontal coordinates [P]."""
        return self.points[:, 0]

    @property
    def y(self) -> Tensor:
        """Vertical coordinates [P]."""
        return self.points[:, 1]

    def coords(self) -> list[Tensor]:
        """The coordinates x, y, z, as many as there are, of every point: [P] each."""
        return list(self.points.unbind(1))

    def num_points(self) -> int:
        """Number of points."""
        return len(self.points)

    def taps(self, _device: torch.device) -> tuple[PointTaps] | None:
        """How the points read the block below, as `ops.inr_layer` takes it; None = they do not."""
        return None if self.reads is None else (self.reads,)

    def table_taps(self, _device: torch.device) -> tuple[PointTaps] | None:
        """How the points read a table of the block."""
        return (self.lookup,)

    def mesh(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Functions of x and of y, both [P], as tensors [1, P]."""
        return u[None, :], v[None, :]

    def waves(self, u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None = None) -> Tensor:
        """sin and cos of rows_u u + rows_v v + phase, [..., 2k, 1, P]."""
        return point_waves((u, v), rows, phase)


def grid_levels(*axes: Sequence[AxisLevel]) -> list[GridLevel]:
    """Plans of all axes, in the order of a tensor's dimensions, as one plan."""
    levels = []
    for parts in zip(*axes):
        slices, rows, cols = (None,) * (3 - len(parts)) + parts
        levels.append(GridLevel(rows, cols, slices))
    return levels


def point_levels(
    points: Tensor,
    sides: Sequence[Sequence[int]],
    sampling: Sampling,
    has_tables: bool = False,
) -> list[PointLevel]:
    """Plans an evaluation at single points: which cells of each block are needed, top down.

    As `lattice.axis_levels`, but the cells that points read come from floor(p R) in their own
    precision, and each block below is evaluated at the distinct cells that the block above reads,
    wherever they are. What cells read of each other is planned exactly. Weights of bilinear taps
    are differentiable functions of the points; the choice of cells is piecewise constant.

    Args:
        points: [P, 2], (x, y), or [P, d], float64 but where the device has none.
        sides: Cells of every block, coarse to fine: vertically, and horizontally (one sequence
            per axis, in the order of a tensor's dimensions).
        sampling: How the lattices read each other.
        has_tables: Whether blocks read tables with one entry per cell of their lattice.

    Returns:
        One PointLevel per block, coarse to fine.
    """
    lattices = list(zip(*reversed(sides)))
    lookup = None
    if has_tables:
        direct = Sampling(sampling.upsampling, sampling.offset)
        cells, weight = _point_reads(points, lattices[-1], lattices[-1], direct)
        lookup = _table_taps(cells, weight, lattices[-1])
    if len(lattices) == 1:
        return [PointLevel(points, None, lookup)]
    levels: list[PointLevel] = []
    cells, weight = _point_reads(points, lattices[-2], lattices[-1], sampling)
    for own, below in zip(lattices[-2::-1], [*lattices[-3::-1], None]):
        found, index = _distinct_cells(cells)
        levels.append(PointLevel(points, PointTaps(index, weight, len(found.at)), lookup))
        points = found.points(own, sampling, points)
        if has_tables:
            lookup = _table_taps(found.cells()[:, None], torch.ones_like(points[:, :1]), own)
        if below is not None:
            cells, weight = found.reads(below, own, sampling, points)
    levels.append(PointLevel(points, None, lookup))
    return levels[::-1]


class _CellSet(NamedTuple):
    """Some cells of a lattice.

    Attributes:
        axes: For columns, rows, slices: the indices that occur, int64 [n].
        at: Each cell's position among those of every axis, int64 [M, d].
    """

    axes: list[Tensor]
    at: Tensor

    def cells(self) -> Tensor:
        """The cells, int64 [M, d]."""
        return self._pick(self.axes)

    def _pick(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack([value[at] for value, at in zip(values, self.at.unbind(1))], 1)

    def points(self, lattice: Sequence[int], sampling: Sampling, like: Tensor) -> Tensor:
        """Their sample points [M, d], correctly rounded."""
        values = [
            torch.from_numpy(cell_points(cells.cpu().numpy(), num, sampling.offset).values())
            for cells, num in zip(self.axes, lattice)
        ]
        return self._pick([value.to(like.dtype).to(like.device) for value in values])

    def reads(
        self, below: Sequence[int], own: Sequence[int], sampling: Sampling, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The cells of the lattice below that each reads: int64 [M, T, d], weights [M, T]."""
        axes = []
        for axis, cells in enumerate(self.axes):
            points = cell_points(cells.cpu().numpy(), own[axis], sampling.offset)
            read, weight = map(
                torch.from_numpy, cell_taps(points, below[axis], sampling, own[axis])
            )
            at = self.at[:, axis]
            axes.append((read.to(at.device)[at], weight.to(like.dtype).to(at.device)[at]))
        return _corners(axes)


def _point_reads(
    points: Tensor, below: Sequence[int], own: Sequence[int], sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """As `_CellSet.reads` for any points, in their precision; weights carry their gradient."""
    axes = []
    for p, num_cells, above in zip(points.unbind(1), below, own):
        if sampling.upsampling == "nearest":
            cells = (p.detach() * num_cells + _LEVEL_ROUNDING).floor().long()
            axes.append((cells[:, None], torch.ones_like(p[:, None])))
            continue
        scale = float(num_cells)
        if sampling.align_corners:
            # As in `lattice.cell_taps`: first and last cells lie over each other.
            scale = above * (num_cells - 1) / (above - 1) if above > 1 else 1.0
        position = p * scale - float(sampling.offset)
        first = position.detach().floor()
        right = position - first
        cells = first.long()
        axes.append((torch.stack([cells, cells + 1], 1), torch.stack([1 - right, right], 1)))
    return _corners(axes)


def _corners(axes: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Cells [n, t] and weights [n, t] of the axes as those of their products, t^d each."""
    cells, weight = axes[0][0][..., None], axes[0][1]
    for own, share in axes[1:]:
        before = cells[:, None].expand(-1, own.shape[1], -1, -1)
        own = own[:, :, None, None].expand(*before.shape[:3], 1)
        cells = torch.cat([before, own], -1).flatten(1, 2)
        weight = (weight[:, None, :] * share[:, :, None]).flatten(1)
    return cells, weight


def _distinct_cells(cells: Tensor) -> tuple[_CellSet, Tensor]:
    """The distinct cells among [P, T, d], and the position [P, T] of each one among them."""
    first, index = cells[..., 0].unique(return_inverse=True)
    axes, at = [first], torch.arange(len(first), device=cells.device)[:, None]
    for along in cells.unbind(-1)[1:]:
        own, own_index = along.unique(return_inverse=True)
        # Numbered within the table of what occurs so far and of this axis: no overflow, wherever
        # the cells are.
        keys, index = (own_index * len(at) + index).unique(return_inverse=True)
        own_at = keys.div(len(at), rounding_mode="floor")
        axes, at = [*axes, own], torch.cat([at[keys % len(at)], own_at[:, None]], 1)
    return _CellSet(axes, at), index


def _table_taps(cells: Tensor, weight: Tensor, lattice: Sequence[int]) -> PointTaps:
    """Taps into a table with one entry per cell, whose entries at the edge continue outside."""
    index = torch.zeros_like(cells[..., 0])
    for along, num_cells in zip(reversed(cells.unbind(-1)), reversed(lattice)):
        index = index * num_cells + along.clamp(0, num_cells - 1)
    return PointTaps(index, weight, math.prod(lattice))
