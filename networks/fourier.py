"""Coordinate features of the INR presets as small functions, of 1, 2 or 3 coordinates.

Coordinates: u = (2x - 1) W / min(H, W), v = (2y - 1) H / min(H, W), so that the unit square of a
square image is [-1, 1] x [-1, 1], x right, y down, and pixels of a non-square one stay square.
Frequencies are in radians per unit of u and v. With one or three coordinates the shortest side of
the signal takes the place of min(H, W). Lists of coordinates are in the order x, y, z, which is
that of a tensor's dimensions from the last one. The longest side may be the unit instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from networks.lattice import AxisLevel, Taps
from ops.fourier import fourier
from ops.inr_layer import AxisTaps, CoordFeatures

# Published INR-GAN configuration: random rows N(0, 10), diagonals on lattices up to 64.
RANDOM_ROWS_STD = math.sqrt(10)
PREDICTED_ROWS_SCALE = math.sqrt(10)
MAX_DIAGONAL_LATTICE = 64
MIN_RANDOM_LATTICE = 128
NUM_RANDOM_ROWS = 32


# Grids and taps of recent calls on their device. They depend on sizes and regions only.
_FOURIER_TABLES: dict[tuple[bytes, torch.dtype, torch.device], Tensor] = {}
_FOURIER_MAX_TABLES = 512
# Elements of features that are kept.
_FOURIER_LARGEST_KEPT = 2**18


def device_table(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An array on a device, which must not be written to.

    A GPU gets each array once: a copy from the host would make every call wait, and cannot be
    captured in a CUDA graph.

    Args:
        array: One or two dimensions, small.
        dtype: Type of the result.
        device: Where it is needed.
    """
    if device.type == "cpu":
        return torch.from_numpy(array).to(dtype)
    key = (array.tobytes() + repr(array.shape).encode("ascii"), dtype, device)
    found = _FOURIER_TABLES.get(key)
    if found is None:
        if len(_FOURIER_TABLES) >= _FOURIER_MAX_TABLES:
            _FOURIER_TABLES.clear()
        # As an ordinary tensor, also if it is first needed where gradients are ruled out.
        with torch.inference_mode(False):
            found = torch.from_numpy(array).to(dtype).to(device)
        _FOURIER_TABLES[key] = found
    return found


def num_octaves(num_cells: int) -> int:
    """Octaves of the logarithmic basis on a lattice: m = 0 .. ceil(log2 R) - 1."""
    return max(1, math.ceil(math.log2(num_cells)))


def centred(points: np.ndarray | Tensor, side: int, unit: int) -> np.ndarray | Tensor:
    """Maps image-side units to centred coordinates: (2p - 1) side / unit, same precision."""
    return (2 * points - 1) * (side / unit)


def axis_features(coordinate: np.ndarray, octaves: int) -> np.ndarray:
    """sin and cos of 2^m (pi/2) u along one axis.

    Computed in float64, because the phase of the highest octave is a large number.

    Args:
        coordinate: float64 [n].
        octaves: Number of rows m = 0 .. octaves - 1.

    Returns:
        float64 [2 octaves, n]: the sines of all octaves, then the cosines.
    """
    phase = (2.0 ** np.arange(octaves))[:, None] * (math.pi / 2) * coordinate
    return np.concatenate([np.sin(phase), np.cos(phase)])


def diagonal_rows(octaves: int, num_coords: int = 2) -> Tensor:
    """The diagonals of the logarithmic basis: 2^m (pi/4) (-1, 1) and 2^m (pi/4) (1, 1).

    With three coordinates those of all three planes; with one there are none.

    Returns:
        float32 [2 octaves, 2], rows (u, v); [k, num_coords] in general.
    """
    scale = (2.0 ** torch.arange(octaves)) * (math.pi / 4)
    found = [torch.zeros(0, num_coords)]
    for axes in combinations(range(num_coords), 2):
        directions = torch.zeros(2, num_coords)
        directions[:, axes] = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
        found.append((directions[:, None, :] * scale[:, None]).flatten(0, 1))
    return torch.cat(found)


def shared_rows(num_cells: int, num_coords: int = 2) -> Tensor:
    """Frequencies of one lattice that need all coordinates and are the same for every image.

    Diagonals on lattices up to 64 cells, 32 random rows N(0, 10) from 128 cells on.

    Returns:
        float32 [k, num_coords], k may be 0. Random rows come from torch's global generator.
    """
    rows = [torch.zeros(0, num_coords)]
    if num_cells <= MAX_DIAGONAL_LATTICE:
        rows.append(diagonal_rows(num_octaves(num_cells), num_coords))
    if num_cells >= MIN_RANDOM_LATTICE:
        rows.append(torch.randn(NUM_RANDOM_ROWS, num_coords) * RANDOM_ROWS_STD)
    return torch.cat(rows)


class AxisTable(NamedTuple):
    """One axis of a product grid as tensors, which must not be written to.

    Attributes:
        features: [2 octaves, n], see `axis_features`.
        coordinate: [n], centred.
    """

    features: Tensor
    coordinate: Tensor


def axis_table(
    axis: AxisLevel, side: int, unit: int, octaves: int, like: Tensor, precision: torch.dtype
) -> AxisTable:
    """The features and the coordinate along one axis of a plan, made once per plan.

    Args:
        axis: The axis.
        side, unit: See `centred`.
        octaves: Octaves of the axis-aligned logarithmic basis.
        like: A tensor on the device.
        precision: Of the result.
    """
    device = like.device

    def make() -> AxisTable:
        coordinate = centred(axis.points, side, unit)
        features = device_table(axis_features(coordinate, octaves), precision, device)
        return AxisTable(features, device_table(coordinate, precision, device))

    return _fourier_remembered(axis.memo, (side, unit, octaves, precision, device), make)


def _fourier_remembered(memo: dict, key: tuple, make: Callable[[], Any]) -> Any:
    """What the memo has under a key, else what `make` returns, tuples that begin with a tensor."""
    found = memo.get(key)
    if found is None:
        # Ordinary tensors, also if they are first needed where gradients are ruled out.
        with torch.inference_mode(False):
            found = make()
        # Tracers' tensors end with the trace.
        if type(found[0]) is Tensor:
            memo[key] = found
    return found


def grid_features(
    axes: Sequence[AxisTable],  # W, H, D points
    rows: Tensor,  # [k, d]
    predicted: tuple[Tensor, Tensor] | None = None,
) -> CoordFeatures:
    """All coordinate features of one lattice at the points of a product grid.

    Args:
        axes: The axes: horizontal, vertical, from slice to slice.
        rows: Shared frequencies that need all coordinates.
        predicted: Frequencies [N, k, d] and phases [N, k] predicted per image, or None.

    Returns:
        Features on the device of `axes` in their precision.
    """
    tables = [axis.features for axis in axes]
    tensors = [axis.coordinate for axis in axes]
    precision = tensors[0].dtype
    cols_table, rows_table, slices_table = [*tables, None, None][:3]
    shared = shared_waves(tensors, rows.to(precision)) if len(rows) else None
    own = None
    if predicted is not None:
        own = grid_waves(tensors, *[part.to(precision) for part in predicted])
    return CoordFeatures(cols_table, rows_table, shared, own, slices_table)


def shared_waves(coords: Sequence[Tensor], rows: Tensor) -> Tensor:
    """`grid_waves` of frequencies that stay the same from call to call.

    On a CPU small results, as of training, are kept: a call takes longer than looking them up.
    They must not be written to.
    """
    count = 2 * len(rows) * math.prod(len(coord) for coord in coords)
    is_plain = type(rows) is Tensor and not rows.requires_grad
    is_kept = rows.device.type == "cpu" and is_plain and count <= _FOURIER_LARGEST_KEPT
    if torch.compiler.is_compiling() or not is_kept:
        return grid_waves(coords, rows)
    return _fourier_kept(rows.dtype, *[tensor.numpy().tobytes() for tensor in (rows, *coords)])


@lru_cache(maxsize=64)
def _fourier_kept(dtype: torch.dtype, rows: bytes, *coords: bytes) -> Tensor:
    """`grid_waves` of what the bytes of tensors say."""
    # Ordinary tensors, also if they are first needed where gradients are ruled out.
    with torch.inference_mode(False), torch.no_grad():
        values = [torch.frombuffer(bytearray(part), dtype=dtype) for part in (rows, *coords)]
        return grid_waves(values[1:], values[0].view(-1, len(coords)))


def grid_waves(
    coords: Sequence[Tensor],  # [W], [H], [D]
    rows: Tensor,  # [..., k, d]
    phase: Tensor | None = None,  # [..., k]
) -> Tensor:  # [..., 2k, D, H, W]
    """[sin; cos](rows p + phase) on a grid along one, two or three axes.

    `ops.fourier` does two; a third coordinate moves the phases from slice to slice.
    """
    if len(coords) == 1:
        return point_waves(coords, rows, phase).squeeze(-2)
    if len(coords) == 2:
        return fourier(*coords, rows, phase)
    u, v, z = coords
    shift = rows[..., None, :, 2] * z[:, None]  # [..., D, k]
    if phase is not None:
        shift = shift + phase[..., None, :]
    planes = rows[..., None, :, :2].expand(*shift.shape, 2)
    waves = fourier(u, v, planes.reshape(-1, rows.shape[-2], 2), shift.reshape(-1, rows.shape[-2]))
    return waves.reshape(*shift.shape[:-1], *waves.shape[1:]).movedim(-4, -3)


def point_waves(
    coords: Sequence[Tensor],  # d times [P]
    rows: Tensor,  # [..., k, d]
    phase: Tensor | None = None,  # [..., k]
) -> Tensor:  # [..., 2k, 1, P]
    """[sin; cos](rows_u u + rows_v v + phase) at single points, as `ops.fourier` on grids."""
    terms = [rows[..., axis : axis + 1] * p for axis, p in enumerate(coords)]
    angle = terms[0]
    for term in terms[1:]:
        angle = angle + term
    if phase is not None:
        angle = angle + phase[..., None]
    return torch.cat([angle.sin(), angle.cos()], dim=-2)[..., None, :]


def point_features(
    coords: Sequence[Tensor],  # d times [P]
    octaves: int,
    rows: Tensor,  # [k, d]
    predicted: tuple[Tensor, Tensor] | None = None,
) -> CoordFeatures:
    """As `grid_features` at P single points, differentiable with respect to them.

    Args:
        coords: Coordinates, float64 but where the device has none.
        octaves: Octaves of the axis-aligned logarithmic basis.
        rows, predicted: As for `grid_features`.
    """
    precision = torch.promote_types(rows.dtype, torch.float32)
    octave = torch.arange(octaves, dtype=coords[0].dtype, device=coords[0].device)
    scales = (2.0**octave) * (math.pi / 2)
    tables = [f(scales[:, None] * p) for p in coords for f in (torch.sin, torch.cos)]
    shared = torch.cat(tables).to(precision)[:, None]
    coords = [p.to(precision) for p in coords]
    if len(rows):
        shared = torch.cat([shared, point_waves(coords, rows.to(precision))])
    own = None
    if predicted is not None:
        own = point_waves(coords, *[part.to(precision) for part in predicted])
    return CoordFeatures(shared=shared, own=own)


def axis_taps(taps: Taps, device: torch.device) -> AxisTaps:
    """One axis of a plan on the device, made once per plan."""

    def make() -> AxisTaps:
        return AxisTaps(
            device_table(taps.index, torch.int64, device),
            device_table(taps.weight, torch.float32, device),
            taps.num_cells,
            taps.doubling,
            taps.aligned,
        )

    return _fourier_remembered(taps.memo, (device,), make)
