"""Geometry of the continuous image: regions, sample grids, lattices and their cells.

Everything here is integer arithmetic on numpy arrays, so that 0.1 means one tenth and the cell
of a point never depends on rounding. Conventions: x right, y down, the unit square is the whole
image. Cell i of a lattice with R cells along an axis covers [i/R, (i+1)/R) and has its sample
point at (2i+1)/(2R); cells continue by index outside the square (i < 0 and i >= R).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

UNIT_SQUARE = (Fraction(0), Fraction(0), Fraction(1), Fraction(1))
# A float region entry stands for the nearest fraction with at most this denominator.
_SNAP_DENOMINATOR = 2**20
# Integers up to 2**53 convert to float64 exactly, so their quotients are correctly rounded.
_EXACT_FLOAT = 2**53


def snap(value: int | float | Fraction) -> Fraction:
    """Turns a coordinate into the fraction it stands for.

    Args:
        value: An int or Fraction (taken exactly) or a float (nearest fraction with a
            denominator of at most 2**20, so that 0.1 becomes 1/10).

    Raises:
        ValueError: If the value is not finite.
    """
    if isinstance(value, (int, Fraction)):
        return Fraction(value)
    if not np.isfinite(value):
        raise ValueError(f"a coordinate must be finite, got {value}")
    return Fraction(float(value)).limit_denominator(_SNAP_DENOMINATOR)


@dataclass(frozen=True)
class Points:
    """Sample points along one axis, as exact fractions with one denominator.

    Attributes:
        numerators: int64 or object array [n].
        denominator: Positive integer.
    """

    numerators: np.ndarray
    denominator: int

    def __len__(self) -> int:
        return len(self.numerators)

    def __getitem__(self, part: slice) -> Points:
        return Points(self.numerators[part], self.denominator)

    def values(self) -> np.ndarray:
        """The points as float64 [n], correctly rounded."""
        return _exact_quotient(self.numerators, self.denominator)


@dataclass(frozen=True)
class Taps:
    """How points along an axis read the cells below: y[j] = sum_t weight[j, t] * x[index[j, t]].

    Attributes:
        index: int64 [n, T], positions in the list of evaluated cells (T = 1 nearest, 2 bilinear).
        weight: float64 [n, T], rows sum to 1.
        num_cells: Number of evaluated cells below.
        doubling: Where both the cells and the points are consecutive cells of lattices R and 2R
            (the case of training): how many fine cells lie between the left end of the first
            coarse cell and the first point. None otherwise.
    """

    index: np.ndarray
    weight: np.ndarray
    num_cells: int
    doubling: int | None


@dataclass(frozen=True)
class AxisLevel:
    """One axis of one block: where it is evaluated and how it reads the block below.

    Attributes:
        points: float64 [n], sample points in units of the image side (0..1 inside the square).
        taps: None for the first block.
    """

    points: np.ndarray
    taps: Taps | None


def grid_points(start: Fraction, stop: Fraction, count: int) -> Points:
    """Sample points start + (j + 1/2) (stop - start) / count, j = 0..count-1, of a grid axis."""
    if count < 1:
        raise ValueError(f"a grid needs at least 1 sample per axis, got {count}")
    step = (stop - start) / count
    first = start + step / 2
    denominator = _lcm(first.denominator, step.denominator)
    a = first.numerator * (denominator // first.denominator)
    b = step.numerator * (denominator // step.denominator)
    index = np.arange(count, dtype=_integer_type(abs(a) + abs(b) * count))
    return Points(a + b * index, denominator)


def cell_points(cells: np.ndarray, num_cells: int) -> Points:
    """Sample points (2i+1)/(2R) of cells i of a lattice with R = num_cells cells."""
    return Points(2 * cells + 1, 2 * num_cells)


def cell_taps(points: Points, num_cells: int, upsampling: str) -> tuple[np.ndarray, np.ndarray]:
    """Finds the cells of a lattice that each point reads, and their weights.

    nearest: the cell floor(p R) that contains the point. bilinear: the two cells around the
    lattice position p R - 1/2 (half-pixel centres), without clamping at the border.

    Args:
        points: n sample points.
        num_cells: Cells R of the lattice along this axis.
        upsampling: "nearest" or "bilinear".

    Returns:
        cells int64 [n, T] and weights float64 [n, T], T = 1 or 2.
    """
    numerators = _roomy_numerators(points, num_cells)
    if upsampling == "nearest":
        cells = (numerators * num_cells) // points.denominator
        return cells.astype(np.int64)[:, None], np.ones((len(points), 1))
    if upsampling != "bilinear":
        raise ValueError(f"upsampling must be 'nearest' or 'bilinear', got {upsampling!r}")
    denominator = 2 * points.denominator
    position = 2 * numerators * num_cells - points.denominator
    cells = position // denominator
    right = _exact_quotient(position - cells * denominator, denominator)
    cells = cells.astype(np.int64)
    return np.stack([cells, cells + 1], axis=1), np.stack([1 - right, right], axis=1)


def axis_levels(points: Points, lattices: Sequence[int], upsampling: str) -> list[AxisLevel]:
    """Plans one axis of an evaluation: which cells of each block are needed, from the top down.

    The last block is a function of the points themselves; each block below is evaluated at
    exactly the cells that the block above reads.

    Args:
        points: Sample points of the output along this axis.
        lattices: Cells per axis of every block, coarse to fine; the last entry is not used
            (the last block lives on the points).
        upsampling: "nearest" or "bilinear".

    Returns:
        One AxisLevel per block, coarse to fine.
    """
    levels: list[AxisLevel] = []
    above = lattices[-1]  # cells per axis of the block whose points are being placed
    fine = _as_cells(points, above)
    for num_cells in reversed(list(lattices)[:-1]):
        cells, weight = cell_taps(points, num_cells, upsampling)
        if upsampling == "bilinear":
            # A point exactly on a cell centre does not need the second cell.
            cells[:, 1] = np.where(weight[:, 1] == 0, cells[:, 0], cells[:, 1])
        needed, index = np.unique(cells, return_inverse=True)
        index = index.reshape(cells.shape)
        doubling = _doubling_offset(needed, fine) if above == 2 * num_cells else None
        levels.append(AxisLevel(points.values(), Taps(index, weight, len(needed), doubling)))
        points, above, fine = cell_points(needed, num_cells), num_cells, needed
    levels.append(AxisLevel(points.values(), None))
    return levels[::-1]


@lru_cache(maxsize=16)
def unit_square_levels(lattices: tuple[int, ...], upsampling: str) -> tuple[AxisLevel, ...]:
    """The plan of one axis of the training grid (a pure function of the geometry, so cached)."""
    points = grid_points(Fraction(0), Fraction(1), lattices[-1])
    return tuple(axis_levels(points, lattices, upsampling))


def scaled_lattices(lattices: Sequence[int], samples_per_unit: Fraction) -> list[int]:
    """The shrunk (or grown) pyramid of lod="scaled": R_k -> max(1, round(s R_k)).

    Args:
        lattices: Cells per axis of every block at training size.
        samples_per_unit: Output samples per side of the unit square; s is its ratio to R_K.
    """
    scale = samples_per_unit / lattices[-1]
    return [max(1, round(scale * num_cells)) for num_cells in lattices]


def _as_cells(points: Points, num_cells: int) -> np.ndarray | None:
    """The cells whose sample points these are, or None if they are not all cell centres."""
    doubled = 2 * _roomy_numerators(points, num_cells) * num_cells - points.denominator
    cells = doubled // (2 * points.denominator)
    is_exact = np.array_equal(doubled, cells * (2 * points.denominator))
    return cells.astype(np.int64) if is_exact else None


def _roomy_numerators(points: Points, num_cells: int) -> np.ndarray:
    """The numerators in a type that holds positions on a lattice of num_cells cells."""
    magnitude = int(np.max(np.abs(points.numerators))) * 2 * num_cells + 2 * points.denominator
    return points.numerators.astype(_integer_type(magnitude))


def _doubling_offset(coarse: np.ndarray, fine: np.ndarray | None) -> int | None:
    """Position of the first fine cell among the halves of consecutive coarse cells, or None."""
    if fine is None or coarse[-1] - coarse[0] + 1 != len(coarse):
        return None
    if len(fine) < 2 or not np.array_equal(fine, np.arange(fine[0], fine[0] + len(fine))):
        return None
    return int(fine[0] - 2 * coarse[0])


def _exact_quotient(numerators: np.ndarray, denominator: int) -> np.ndarray:
    """numerators / denominator as correctly rounded float64."""
    largest = int(np.max(np.abs(numerators))) if len(numerators) else 0
    if max(largest, denominator) >= _EXACT_FLOAT:
        return np.array([int(n) / denominator for n in numerators], dtype=np.float64)
    return numerators.astype(np.float64) / denominator


def _integer_type(magnitude: int) -> type:
    """int64 where every intermediate fits, else Python's unbounded integers."""
    return np.int64 if magnitude < 2**62 else object


def _lcm(a: int, b: int) -> int:
    # math.lcm needs Python 3.9; snapshots also open on older ones.
    return a * b // math.gcd(a, b)
