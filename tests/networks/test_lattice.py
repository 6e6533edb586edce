"""The geometry against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from networks.lattice import (
    Points,
    Sampling,
    axis_levels,
    cell_points,
    cell_taps,
    grid_points,
    is_integer,
    scaled_lattices,
    snap,
    table_taps,
    unit_square_levels,
)

FRACTIONS = st.fractions(-3, 3, max_denominator=2**20)


def exact(points: Points) -> list[Fraction]:
    return [Fraction(int(n), points.denominator) for n in points.numerators]


@pytest.mark.parametrize(
    "value,expected",
    [(0.1, Fraction(1, 10)), (-0.3, Fraction(-3, 10)), (2, Fraction(2)), (1 / 3, Fraction(1, 3))],
)
def test_floats_mean_the_fraction_they_stand_for(value, expected):
    assert snap(value) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_coordinates_that_are_not_finite(value):
    with pytest.raises(ValueError, match="finite"):
        snap(value)


@given(FRACTIONS, FRACTIONS, st.integers(1, 50))
def test_grid_points_are_exact_pixel_centres(start, stop, count):
    step = (stop - start) / count
    assert exact(grid_points(start, stop, count)) == [
        start + (j + Fraction(1, 2)) * step for j in range(count)
    ]


def test_huge_denominators_do_not_overflow():
    start, stop = Fraction(1, 2**20 - 1), Fraction(1, 2**20 - 3)
    points = grid_points(start, stop, 16384)
    assert exact(points)[-1] == start + Fraction(32767, 32768) * (stop - start)
    cells, _ = cell_taps(points, 4096, Sampling("bilinear"))
    assert set(cells.ravel()) == {-1, 0}
    values = points.values()
    assert values.dtype == np.float64 and values[0] == float(exact(points)[0])


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_deep_zooms_do_not_overflow(upsampling):
    points = grid_points(Fraction(1, 3), Fraction(1, 3) + Fraction(1, 2**70), 4)
    levels = axis_levels(points, (8, 16, 32), Sampling(upsampling))
    assert levels[-1].points.tolist() == pytest.approx([1 / 3] * 4)
    # 1/3 lies in cell 10 of 32, cell 5 of 16 and cell 2 of 8.
    assert 5.5 / 16 in levels[1].points and 2.5 / 8 in levels[0].points


@given(FRACTIONS, FRACTIONS, st.integers(1, 9), st.integers(1, 300))
def test_nearest_cell_contains_the_point(start, stop, count, num_cells):
    points = grid_points(start, stop, count)
    cells, weight = cell_taps(points, num_cells, Sampling("nearest"))
    assert [int(c) for c in cells[:, 0]] == [math.floor(p * num_cells) for p in exact(points)]
    assert np.all(weight == 1)


@given(FRACTIONS, FRACTIONS, st.integers(1, 9), st.integers(1, 300))
def test_bilinear_taps_reproduce_linear_functions(start, stop, count, num_cells):
    points = grid_points(start, stop, count)
    cells, weight = cell_taps(points, num_cells, Sampling("bilinear"))
    for p, pair, share in zip(exact(points), cells, weight):
        centres = [Fraction(2 * int(c) + 1, 2 * num_cells) for c in pair]
        assert centres[0] <= p <= centres[1]
        assert math.isclose(
            float(p), sum(float(c) * s for c, s in zip(centres, share)), abs_tol=1e-12
        )


@pytest.mark.parametrize("upsampling,halo", [("nearest", 0), ("bilinear", 1)])
def test_training_grid_reads_every_lattice_with_its_halo(upsampling, halo):
    levels = unit_square_levels((8, 16, 32), Sampling(upsampling))
    assert [len(level.points) for level in levels] == [8 + 2 * halo, 16 + 2 * halo, 32]
    assert [level.taps and level.taps.doubling for level in levels] == [None, halo, 2 * halo]
    assert levels[0].points[0] == (1 - 2 * halo) / 16


def test_few_samples_read_few_cells():
    points = grid_points(Fraction(0), Fraction(1), 4)
    nearest = axis_levels(points, (32, 64, 128, 256), Sampling("nearest"))
    assert [len(level.points) for level in nearest] == [4, 4, 4, 4]
    bilinear = axis_levels(points, (32, 64, 128, 256), Sampling("bilinear"))
    assert [len(level.points) for level in bilinear] == [8, 8, 8, 4]


def test_cells_outside_the_square_continue_by_index():
    points = cell_points(np.array([-3, 20]), 16)
    cells, _ = cell_taps(points, 8, Sampling("nearest"))
    assert cells[:, 0].tolist() == [-2, 10]


def test_scaled_lattices_follow_the_sampling_rate():
    assert scaled_lattices((32, 64, 128, 256), Fraction(64)) == [8, 16, 32, 64]
    assert scaled_lattices((8, 16, 32), Fraction(1)) == [1, 1, 1]
    assert scaled_lattices((8, 16, 32), Fraction(48)) == [12, 24, 48]


ALIGNED = Sampling("bilinear", Fraction(0), align_corners=True)


@given(FRACTIONS, FRACTIONS, st.integers(1, 9), st.fractions(0, 1, max_denominator=9))
def test_grids_start_where_their_offset_says(start, stop, count, offset):
    assert exact(grid_points(start, stop, count, offset)) == [
        start + (j + offset) * (stop - start) / count for j in range(count)
    ]
    cells = np.array([-2, 0, 7])
    assert exact(cell_points(cells, 5, offset)) == [(int(i) + offset) / 5 for i in cells]


@given(FRACTIONS, FRACTIONS, st.integers(1, 9), st.integers(2, 300), st.integers(2, 300))
def test_aligned_corners_map_first_to_first_and_last_to_last(start, stop, count, low, high):
    points = grid_points(start, stop, count, Fraction(0))
    cells, weight = cell_taps(points, low, ALIGNED, above=high)
    for p, pair, share in zip(exact(points), cells, weight):
        position = p * high * Fraction(low - 1, high - 1)
        assert pair.tolist() == [math.floor(position), math.floor(position) + 1]
        assert math.isclose(share[1], float(position - math.floor(position)), abs_tol=1e-12)
        assert math.isclose(share.sum(), 1)


def test_training_grid_with_aligned_corners_reads_all_cells_and_no_halo():
    levels = unit_square_levels((8, 16, 32), ALIGNED, True)
    assert [len(level.points) for level in levels] == [8, 16, 32]
    assert [level.taps and level.taps.aligned for level in levels] == [None, True, True]
    assert all(level.lookup.is_identity() for level in levels)
    assert levels[1].taps.index[-1].tolist() == [7, 7] and levels[0].points[0] == 0
    points = grid_points(Fraction(0), Fraction(1), 31, Fraction(0))
    other = axis_levels(points, (8, 16, 32), ALIGNED, (8, 16, 32))
    assert not other[-1].taps.aligned and not other[-1].lookup.is_identity()


def test_aligned_corners_of_a_single_cell():
    points = grid_points(Fraction(0), Fraction(1), 1, Fraction(0))
    levels = axis_levels(points, (1, 1, 1), ALIGNED, (8, 16, 32))
    assert [len(level.points) for level in levels] == [1, 1, 1]


def test_tables_are_read_at_the_point_and_clamped():
    points = Points(np.array([-9, 0, 3, 15, 40]), 16)  # position 8 p: -4.5, 0, 1.5, 7.5, 20
    taps = table_taps(points, 8, Sampling("nearest", Fraction(0)))
    assert taps.index[:, 0].tolist() == [0, 0, 1, 7, 7] and taps.index.shape == (5, 1)
    taps = table_taps(points, 8, ALIGNED)
    assert taps.index.tolist() == [[0, 0], [0, 1], [1, 2], [7, 7], [7, 7]]
    assert taps.weight[:, 1].tolist() == [0.5, 0, 0.5, 0.5, 0]
    assert table_taps(points[1:2], 8, ALIGNED).index.tolist() == [[0]]


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_only_bilinear_corners_can_be_aligned(upsampling):
    with pytest.raises(ValueError, match="align_corners needs"):
        Sampling(upsampling, Fraction(0 if upsampling == "nearest" else 1), True)
    with pytest.raises(ValueError, match="'cubic'"):
        Sampling("cubic")


@pytest.mark.parametrize(
    "value,expected",
    [(3, True), (np.int64(3), True), (np.float32(3), False), ("3", False), (None, False)],
)
def test_what_counts_as_an_integer(value, expected):
    assert is_integer(value) == expected


@pytest.mark.parametrize("value", ["0.5", None, 1j, [1]])
def test_refuses_coordinates_that_are_no_numbers(value):
    with pytest.raises(TypeError, match="real number"):
        snap(value)
