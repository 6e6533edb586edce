"""Where the blocks of a continuous network are evaluated: on a product grid, or at single points.

A level belongs to one lattice. It knows the points at which the block there is evaluated, and how
they read the block below. `GridLevel` is the product of two axes, planned with exact fractions by
`networks.lattice`. `PointLevel` holds P points anywhere; all tensors that belong to it are
[..., 1, P], as of a picture of one row.
"""

from __future__ import annotations

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
    """H x W points, the product of two axes.

    Attributes:
        rows: Vertical axis.
        cols: Horizontal axis.
    """

    rows: AxisLevel
    cols: AxisLevel

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
        return len(self.rows.points) * len(self.cols.points)

    def taps(self, device: torch.device) -> tuple[AxisTaps, AxisTaps] | None:
        """How the points read the block below, as `ops.inr_layer` takes it; None = they do not."""
        if self.rows.taps is None:
            return None
        return axis_taps(self.rows.taps, device), axis_taps(self.cols.taps, device)

    def table_taps(self, device: torch.device) -> tuple[AxisTaps, AxisTaps] | None:
        """How the points read a table of the block; None = entry by entry."""
        if self.rows.lookup.is_identity() and self.cols.lookup.is_identity():
            return None
        return axis_taps(self.rows.lookup, device), axis_taps(self.cols.lookup, device)

    def mesh(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Functions of x and of y alone, [W] and [H], as tensors that broadcast to [H, W]."""
        return u[None, :], v[:, None]

    def waves(self, u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None = None) -> Tensor:
        """sin and cos of rows_u u + rows_v v + phase, [..., 2k, H, W]. See `ops.fourier`."""
        return fourier(u, v, rows, phase)


class PointLevel(NamedTuple):
    """P points anywhere.

    Attributes:
        points: float64 [P, 2], (x, y); may carry a gradient.
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
        return point_waves(u, v, rows, phase)


def grid_levels(rows: Sequence[AxisLevel], cols: Sequence[AxisLevel]) -> list[GridLevel]:
    """Plans of both axes as one plan."""
    return [GridLevel(row, col) for row, col in zip(rows, cols)]


def point_levels(
    points: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    sampling: Sampling,
    has_tables: bool = False,
) -> list[PointLevel]:
    """Plans an evaluation at single points: which cells of each block are needed, top down.

    As `lattice.axis_levels`, but the cells that points read come from floor(p R) in their own
    precision, and each block below is evaluated at the distinct cells that the block above reads,
    wherever they are. What cells read of each other is planned exactly. Weights of bilinear taps
    are differentiable functions of the points; the choice of cells is piecewise constant.

    Args:
        points: [P, 2], (x, y), float64 but where the device has none.
        heights, widths: Cells per axis of every block, coarse to fine.
        sampling: How the lattices read each other.
        has_tables: Whether blocks read tables with one entry per cell of their lattice.

    Returns:
        One PointLevel per block, coarse to fine.
    """
    lattices = list(zip(widths, heights))
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
        columns, rows: Those that occur, int64 [n] and [m].
        at: Each cell's position in `columns` and in `rows`, int64 [M, 2].
    """

    columns: Tensor
    rows: Tensor
    at: Tensor

    def cells(self) -> Tensor:
        """The cells, int64 [M, 2]."""
        return self._pick(self.columns, self.rows)

    def _pick(self, of_columns: Tensor, of_rows: Tensor) -> Tensor:
        return torch.stack([of_columns[self.at[:, 0]], of_rows[self.at[:, 1]]], 1)

    def points(self, lattice: Sequence[int], sampling: Sampling, like: Tensor) -> Tensor:
        """Their sample points [M, 2], correctly rounded."""
        values = [
            torch.from_numpy(cell_points(cells.cpu().numpy(), num, sampling.offset).values())
            for cells, num in zip((self.columns, self.rows), lattice)
        ]
        return self._pick(*[value.to(like.dtype).to(like.device) for value in values])

    def reads(
        self, below: Sequence[int], own: Sequence[int], sampling: Sampling, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The cells of the lattice below that each reads: int64 [M, T, 2], weights [M, T]."""
        axes = []
        for axis, cells in enumerate((self.columns, self.rows)):
            points = cell_points(cells.cpu().numpy(), own[axis], sampling.offset)
            read, weight = map(
                torch.from_numpy, cell_taps(points, below[axis], sampling, own[axis])
            )
            at = self.at[:, axis]
            axes.append((read.to(at.device)[at], weight.to(like.dtype).to(at.device)[at]))
        return _corners(*axes)


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
    return _corners(*axes)


def _corners(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Cells [n, t] and weights [n, t] of both axes as those of their products, t * t each."""
    cells = torch.stack(torch.broadcast_tensors(x[0][:, None, :], y[0][:, :, None]), -1)
    return cells.flatten(1, 2), (x[1][:, None, :] * y[1][:, :, None]).flatten(1)


def _distinct_cells(cells: Tensor) -> tuple[_CellSet, Tensor]:
    """The distinct cells among [P, T, 2], and the position [P, T] of each one among them."""
    columns, col_index = cells[..., 0].unique(return_inverse=True)
    rows, row_index = cells[..., 1].unique(return_inverse=True)
    # Numbered within the table of all these columns and rows: no overflow, wherever they are.
    keys, index = (row_index * len(columns) + col_index).unique(return_inverse=True)
    at = torch.stack([keys % len(columns), keys.div(len(columns), rounding_mode="floor")], 1)
    return _CellSet(columns, rows, at), index


def _table_taps(cells: Tensor, weight: Tensor, lattice: Sequence[int]) -> PointTaps:
    """Taps into a table with one entry per cell, whose entries at the edge continue outside."""
    width, height = lattice
    index = cells[..., 1].clamp(0, height - 1) * width + cells[..., 0].clamp(0, width - 1)
    return PointTaps(index, weight, height * width)
