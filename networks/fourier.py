"""Coordinate features of the INR presets as small functions.

Coordinates: u = (2x - 1) W / min(H, W), v = (2y - 1) H / min(H, W), so that the unit square of a
square image is [-1, 1] x [-1, 1], x right, y down, and pixels of a non-square one stay square.
Frequencies are in radians per unit of u and v.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from networks.lattice import Taps
from ops.fourier import fourier
from ops.inr_layer import AxisTaps, CoordFeatures

# Published INR-GAN configuration: random rows N(0, 10), diagonals on lattices up to 64.
RANDOM_ROWS_STD = math.sqrt(10)
PREDICTED_ROWS_SCALE = math.sqrt(10)
MAX_DIAGONAL_LATTICE = 64
MIN_RANDOM_LATTICE = 128
NUM_RANDOM_ROWS = 32


def num_octaves(num_cells: int) -> int:
    """Octaves of the logarithmic basis on a lattice: m = 0 .. ceil(log2 R) - 1."""
    return max(1, math.ceil(math.log2(num_cells)))


def centred(points: np.ndarray | Tensor, side: int, shorter: int) -> np.ndarray | Tensor:
    """Maps image-side units to centred coordinates: (2p - 1) side / min(H, W), same precision."""
    return (2 * points - 1) * (side / shorter)


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


def diagonal_rows(octaves: int) -> Tensor:
    """The diagonals of the logarithmic basis: 2^m (pi/4) (-1, 1) and 2^m (pi/4) (1, 1).

    Returns:
        float32 [2 octaves, 2], rows (u, v).
    """
    scale = (2.0 ** torch.arange(octaves)) * (math.pi / 4)
    directions = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
    return (directions[:, None, :] * scale[:, None]).flatten(0, 1)


def shared_rows(num_cells: int) -> Tensor:
    """Frequencies of one lattice that need both coordinates and are the same for every image.

    Diagonals on lattices up to 64 cells, 32 random rows N(0, 10) from 128 cells on.

    Returns:
        float32 [k, 2], k may be 0. Random rows come from torch's global generator.
    """
    rows = []
    if num_cells <= MAX_DIAGONAL_LATTICE:
        rows.append(diagonal_rows(num_octaves(num_cells)))
    if num_cells >= MIN_RANDOM_LATTICE:
        rows.append(torch.randn(NUM_RANDOM_ROWS, 2) * RANDOM_ROWS_STD)
    return torch.cat(rows) if rows else torch.zeros(0, 2)


def grid_features(
    u: np.ndarray,  # float64 [W]
    v: np.ndarray,  # float64 [H]
    octaves: int,
    rows: Tensor,  # [k, 2]
    predicted: tuple[Tensor, Tensor] | None = None,
) -> CoordFeatures:
    """All coordinate features of one lattice at the points of a product grid.

    Args:
        u: Horizontal coordinates.
        v: Vertical coordinates.
        octaves: Octaves of the axis-aligned logarithmic basis.
        rows: Shared frequencies that need both coordinates.
        predicted: Frequencies [N, k, 2] and phases [N, k] predicted per image, or None.

    Returns:
        Features on the device of `rows` in its precision, but at least float32.
    """
    precision = torch.promote_types(rows.dtype, torch.float32)
    cols_table, rows_table, u_tensor, v_tensor = (
        torch.from_numpy(array).to(precision).to(rows.device)
        for array in (axis_features(u, octaves), axis_features(v, octaves), u, v)
    )
    shared = fourier(u_tensor, v_tensor, rows.to(precision)) if len(rows) else None
    own = None
    if predicted is not None:
        own = fourier(u_tensor, v_tensor, *[part.to(precision) for part in predicted])
    return CoordFeatures(cols_table, rows_table, shared, own)


def point_waves(
    u: Tensor,  # [P]
    v: Tensor,  # [P]
    rows: Tensor,  # [..., k, 2]
    phase: Tensor | None = None,  # [..., k]
) -> Tensor:  # [..., 2k, 1, P]
    """[sin; cos](rows_u u + rows_v v + phase) at single points, as `ops.fourier` on grids."""
    angle = rows[..., 0:1] * u + rows[..., 1:2] * v
    if phase is not None:
        angle = angle + phase[..., None]
    return torch.cat([angle.sin(), angle.cos()], dim=-2)[..., None, :]


def point_features(
    u: Tensor,  # [P]
    v: Tensor,  # [P]
    octaves: int,
    rows: Tensor,  # [k, 2]
    predicted: tuple[Tensor, Tensor] | None = None,
) -> CoordFeatures:
    """As `grid_features` at P single points, differentiable with respect to them.

    Args:
        u, v: Coordinates, float64 but where the device has none.
        octaves, rows, predicted: As for `grid_features`.
    """
    precision = torch.promote_types(rows.dtype, torch.float32)
    scales = (2.0 ** torch.arange(octaves, dtype=u.dtype, device=u.device)) * (math.pi / 2)
    tables = [f(scales[:, None] * p) for p in (u, v) for f in (torch.sin, torch.cos)]
    shared = torch.cat(tables).to(precision)[:, None]
    u, v = u.to(precision), v.to(precision)
    if len(rows):
        shared = torch.cat([shared, point_waves(u, v, rows.to(precision))])
    own = None
    if predicted is not None:
        own = point_waves(u, v, *[part.to(precision) for part in predicted])
    return CoordFeatures(shared=shared, own=own)


def axis_taps(taps: Taps, device: torch.device) -> AxisTaps:
    """Moves one axis of a plan onto the device."""
    return AxisTaps(
        torch.from_numpy(taps.index).to(device),
        torch.from_numpy(taps.weight).float().to(device),
        taps.num_cells,
        taps.doubling,
        taps.aligned,
    )
