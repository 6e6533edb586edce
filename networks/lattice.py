"""Geometry of the continuous image: regions, sample grids, lattices and their cells.

Everything here is integer arithmetic on numpy arrays, so that 0.1 means one tenth and the cell
of a point never depends on rounding. Conventions: x right, y down, the unit square is the whole
image. Cell i of a lattice with R cells along an axis covers [i/R, (i+1)/R) and has its sample
point at (i + o)/R, o = 1/2 for the presets of this project; cells continue by index outside the
square (i < 0 and i >= R). `Sampling` says how the lattices of one generator lie.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np

UNIT_SQUARE = (Fraction(0), Fraction(0), Fraction(1), Fraction(1))
# A float region entry stands for the nearest fraction with at most this denominator.
_SNAP_DENOMINATOR = 2**20
# Integers up to 2**53 convert to float64 exactly, so their quotients are correctly rounded.
_EXACT_FLOAT = 2**53


def is_integer(value: object) -> bool:
    """Whether a value is an integer of any library, for example a numpy.int64."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def snap(value: int | float | Fraction) -> Fraction:
    """Turns a coordinate into the fraction it stands for.

    Args:
        value: An integer of any kind or a Fraction (taken exactly) or a float (nearest fraction
            with a denominator of at most 2**20, so that 0.1 becomes 1/10).

    Raises:
        TypeError: If the value is no real number.
        ValueError: If the value is not finite.
    """
    if isinstance(value, Fraction):
        return value
    if is_integer(value):
        return Fraction(operator.index(value))
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"a coordinate must be a real number, got {value!r}")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"a coordinate must be finite, got {value}")
    return Fraction(value).limit_denominator(_SNAP_DENOMINATOR)


@dataclass(frozen=True)
class Sampling:
    """How the lattices of a generator lie over the image and read each other.

    Attributes:
        upsampling: "nearest": a point reads the cell that contains it. "bilinear": it reads the
            two cells whose sample points surround it.
        offset: o, between 0 and 1: cell i of R has its sample point at (i + o)/R, and grids of
            output samples lie the same way in their region.
        align_corners: Bilinear with o = 0 only: the first and the last cell of all lattices lie
            over each other, so that cell i of R reads position i (r - 1)/(R - 1) of a lattice of
            r cells (the published INR-GAN's rule) instead of the position of its sample point.
    """

    upsampling: str
    offset: Fraction = Fraction(1, 2)
    align_corners: bool = False

    def __post_init__(self) -> None:
        if self.upsampling not in ("nearest", "bilinear"):
            raise ValueError(f"upsampling must be 'nearest' or 'bilinear', got {self.upsampling!r}")
        if self.align_corners and (self.upsampling != "bilinear" or self.offset != 0):
            raise ValueError("align_corners needs bilinear upsampling and an offset of 0")


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


@dataclass(frozen=True, eq=False)
class Taps:
    """How points along an axis read the cells below: y[j] = sum_t weight[j, t] * x[index[j, t]].

    Attributes:
        index: int64 [n, T], positions in the list of evaluated cells (T = 1 nearest, 2 bilinear).
        weight: float64 [n, T], rows sum to 1.
        num_cells: Number of evaluated cells below.
        doubling: Where both the cells and the points are consecutive cells of lattices R and 2R
            (the case of training): how many fine cells lie between the left end of the first
            coarse cell and the first point. None otherwise.
        aligned: Whether the points are all cells of one lattice and read all cells of another,
            corners over corners (training with `Sampling.align_corners`).
        memo: What others have derived from these taps, such as tensors by device.
    """

    index: np.ndarray
    weight: np.ndarray
    num_cells: int
    doubling: int | None = None
    aligned: bool = False
    memo: dict = field(default_factory=dict, repr=False)

    def is_identity(self) -> bool:
        """Whether point j reads cell j and nothing else, for all cells."""
        return self.index.shape == (self.num_cells, 1) and np.array_equal(
            self.index[:, 0], np.arange(self.num_cells)
        )


@dataclass(frozen=True, eq=False)
class AxisLevel:
    """One axis of one block: where it is evaluated and how it reads the block below.

    Attributes:
        points: float64 [n], sample points in units of the image side (0..1 inside the square).
        taps: None for the first block.
        lookup: How the points read a table of the block that has one entry per cell of its
            lattice at training size; None if the plan was made without tables.
        memo: What others have derived from these points, such as tensors by device.
    """

    points: np.ndarray
    taps: Taps | None
    lookup: Taps | None = None
    memo: dict = field(default_factory=dict, repr=False)


def grid_points(
    start: Fraction, stop: Fraction, count: int, offset: Fraction = Fraction(1, 2)
) -> Points:
    """Sample points start + (j + offset) (stop - start) / count, j = 0..count-1, of a grid axis."""
    if count < 1:
        raise ValueError(f"a grid needs at least 1 sample per axis, got {count}")
    step = (stop - start) / count
    first = start + step * offset
    denominator = _lcm(first.denominator, step.denominator)
    a = first.numerator * (denominator // first.denominator)
    b = step.numerator * (denominator // step.denominator)
    index = np.arange(count, dtype=_integer_type(abs(a) + abs(b) * count))
    return Points(a + b * index, denominator)


def cell_points(cells: np.ndarray, num_cells: int, offset: Fraction = Fraction(1, 2)) -> Points:
    """Sample points (i + offset)/R of cells i of a lattice with R = num_cells cells."""
    return Points(cells * offset.denominator + offset.numerator, num_cells * offset.denominator)


def cell_taps(
    points: Points, num_cells: int, sampling: Sampling, above: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the cells of a lattice that each point reads, and their weights.

    nearest: the cell floor(p R) that contains the point. bilinear: the two cells around the
    lattice position p R - o, or p R' (R - 1)/(R' - 1) with aligned corners, without clamping at
    the border.

    Args:
        points: n sample points.
        num_cells: Cells R of the lattice along this axis.
        sampling: How lattices read each other.
        above: Cells R' of the lattice that the points belong to; needed for aligned corners.

    Returns:
        cells int64 [n, T] and weights float64 [n, T], T = 1 or 2.
    """
    if sampling.upsampling == "nearest":
        position, denominator = _positions(points, Fraction(num_cells), Fraction(0))
        return (position // denominator).astype(np.int64)[:, None], np.ones((len(points), 1))
    scale = Fraction(num_cells)
    if sampling.align_corners:
        # A lattice of a single cell has no second corner; all lie over it.
        scale = Fraction(above * (num_cells - 1), above - 1) if above > 1 else Fraction(1)
    position, denominator = _positions(points, scale, sampling.offset)
    cells = position // denominator
    right = _exact_quotient(position - cells * denominator, denominator)
    cells = cells.astype(np.int64)
    return np.stack([cells, cells + 1], axis=1), np.stack([1 - right, right], axis=1)


def table_taps(points: Points, num_entries: int, sampling: Sampling) -> Taps:
    """How points read a table with one entry per cell of a lattice, clamped at the edge.

    nearest: the entry of the cell that contains the point; bilinear: between the entries around
    position p R - o (aligned corners only concern what lattices read of each other).

    Args:
        points: n sample points.
        num_entries: Entries R of the table along this axis.
        sampling: See `Sampling`.
    """
    direct = Sampling(sampling.upsampling, sampling.offset)
    cells, weight = cell_taps(points, num_entries, direct)
    if not weight[:, 1:].any():
        cells, weight = cells[:, :1], weight[:, :1]
    return Taps(cells.clip(0, num_entries - 1), weight, num_entries)


def axis_levels(
    points: Points,
    lattices: Sequence[int],
    sampling: Sampling,
    tables: Sequence[int] | None = None,
) -> list[AxisLevel]:
    """Plans one axis of an evaluation: which cells of each block are needed, from the top down.

    The last block is a function of the points themselves; each block below is evaluated at
    exactly the cells that the block above reads.

    Args:
        points: Sample points of the output along this axis.
        lattices: Cells per axis of every block, coarse to fine. The last block lives on the
            points; its entry only matters for aligned corners.
        sampling: How the lattices read each other.
        tables: Entries per axis of every block's tables; None = no tables.

    Returns:
        One AxisLevel per block, coarse to fine.
    """
    levels: list[AxisLevel] = []
    above = lattices[-1]  # cells per axis of the block whose points are being placed
    fine = _as_cells(points, above, sampling.offset)
    for level in reversed(range(len(lattices))):
        lookup = None if tables is None else table_taps(points, tables[level], sampling)
        if level == 0:
            levels.append(AxisLevel(points.values(), None, lookup))
            break
        num_cells = lattices[level - 1]
        cells, weight = cell_taps(points, num_cells, sampling, above)
        if sampling.upsampling == "bilinear":
            # A point exactly on a cell's sample point does not need the second cell.
            cells[:, 1] = np.where(weight[:, 1] == 0, cells[:, 0], cells[:, 1])
        needed, index = np.unique(cells, return_inverse=True)
        index = index.reshape(cells.shape)
        if sampling.align_corners:
            aligned = _is_all_cells(needed, num_cells) and _is_all_cells(fine, above)
            taps = Taps(index, weight, len(needed), None, aligned)
        else:
            doubling = _doubling_offset(needed, fine) if above == 2 * num_cells else None
            taps = Taps(index, weight, len(needed), doubling)
        levels.append(AxisLevel(points.values(), taps, lookup))
        points, above, fine = cell_points(needed, num_cells, sampling.offset), num_cells, needed
    return levels[::-1]


@lru_cache(maxsize=16)
def unit_square_levels(
    lattices: tuple[int, ...], sampling: Sampling, has_tables: bool = False
) -> tuple[AxisLevel, ...]:
    """The plan of one axis of the training grid (a pure function of the geometry, so cached)."""
    points = grid_points(Fraction(0), Fraction(1), lattices[-1], sampling.offset)
    return tuple(axis_levels(points, lattices, sampling, lattices if has_tables else None))


def scaled_lattices(lattices: Sequence[int], samples_per_unit: Fraction) -> list[int]:
    """The shrunk (or grown) pyramid of lod="scaled": R_k -> max(1, round(s R_k)).

    Args:
        lattices: Cells per axis of every block at training size.
        samples_per_unit: Output samples per side of the unit square; s is its ratio to R_K.
    """
    scale = samples_per_unit / lattices[-1]
    return [max(1, round(scale * num_cells)) for num_cells in lattices]


def _as_cells(points: Points, num_cells: int, offset: Fraction) -> np.ndarray | None:
    """The cells whose sample points these are, or None if they are not all sample points."""
    position, denominator = _positions(points, Fraction(num_cells), offset)
    cells = position // denominator
    is_exact = np.array_equal(position, cells * denominator)
    return cells.astype(np.int64) if is_exact else None


def _positions(points: Points, scale: Fraction, offset: Fraction) -> tuple[np.ndarray, int]:
    """p * scale - offset as numerators over one denominator, in a type that holds them."""
    factor = scale.numerator * offset.denominator
    shift = offset.numerator * scale.denominator * points.denominator
    denominator = points.denominator * scale.denominator * offset.denominator
    magnitude = int(np.max(np.abs(points.numerators))) * factor + shift + denominator
    numerators = points.numerators.astype(_integer_type(magnitude))
    return numerators * factor - shift, denominator


def _is_all_cells(cells: np.ndarray | None, num_cells: int) -> bool:
    return cells is not None and np.array_equal(cells, np.arange(num_cells))


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
