"""Features of the coordinates in the published INR-GAN: waves and per-pixel tables.

Coordinates of a sample point p on the lattice with R cells at training size: u = 2 p_x - 1 to the
right and, upwards, v = 1 - 2/R - 2 p_y (the published code flips its grid -1, ..., 1 - 2/R).
Tables have one entry per cell and are fields: read at p's cell or between cells, the entries at
the edge continue outside the square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.fourier import device_table
from networks.layers import FullyConnectedLayer
from networks.levels import GridLevel, PointLevel, exact_dtype
from ops.inr_layer import CoordFeatures, lattice_upsample


def log_basis_rows(resolution: int, use_diagonal: bool) -> Tensor:
    """Logarithmic frequencies of a lattice: 2^m (2 pi / period) times each direction.

    m = 0 .. ceil(log2 R) - 1; directions (0, 1) and (1, 0) with period 4 and, if asked for, the
    diagonals (-1, 1)/sqrt 2 and (1, 1)/sqrt 2 with period 4 sqrt 2.

    Returns:
        float32 [directions * octaves, 2], columns (u, v).
    """
    octaves = max(1, math.ceil(math.log2(resolution)))
    directions = [(0.0, math.pi / 2), (math.pi / 2, 0.0)]
    if use_diagonal:
        directions += [(-math.pi / 4, math.pi / 4), (math.pi / 4, math.pi / 4)]
    scales = 2.0 ** torch.arange(octaves)
    return torch.cat([scales[:, None] * torch.tensor(pair) for pair in directions])


def wave_features(
    u: Tensor,  # [1, W]
    v: Tensor,  # [H, 1] or [1, W]
    rows: Tensor,  # [..., k, 2]
    phase: Tensor | None,  # [..., k]
    with_cosine: bool,
    dtype: torch.dtype,
) -> Tensor:  # [..., k or 2k, H, W]
    """sin (and cos) of rows_u u + rows_v v + phase on a product grid or, in one row, at points.

    Each axis alone goes through sin and cos, in the precision of u and v; the points follow by
    sin(a + b) = sin a cos b + cos a sin b and cos(a + b) = cos a cos b - sin a sin b.

    Args:
        u: Horizontal coordinates.
        v: Vertical coordinates.
        rows: Frequencies in radians per unit, columns (u, v).
        phase: Phases in radians; None = 0.
        with_cosine: Whether the cosines follow the sines.
        dtype: Of the result.
    """
    across, down = (rows[..., axis, None, None].to(p.dtype) * p for axis, p in enumerate((u, v)))
    if phase is not None:
        across = across + phase[..., None, None].to(u.dtype)
    sin_a, cos_a = (f(across).to(dtype) for f in (torch.sin, torch.cos))
    sin_d, cos_d = (f(down).to(dtype) for f in (torch.sin, torch.cos))
    sines = torch.addcmul(sin_d * cos_a, cos_d, sin_a)
    if not with_cosine:
        return sines
    return torch.cat([sines, torch.addcmul(cos_d * cos_a, sin_d, sin_a, value=-1)], dim=-3)


def read_table(table: Tensor, level: GridLevel | PointLevel) -> Tensor:
    """Reads a table [1, C, R, R] at the points of a level, [C, H, W]."""
    taps = level.table_taps(table.device)
    return table[0] if taps is None else lattice_upsample(table, *taps)[0]


class PublishedCoordFuser(nn.Module):
    """The features of the coordinates that one block gets, in the published channel order.

    [raw coordinates, sin(log, random, shared, predicted), cos(the same), table].

    Args:
        resolution: R, cells of the block's lattice per axis at training size.
        w_dim: Dimensionality of w.
        log_emb_size, random_emb_size, shared_emb_size, predictable_emb_size, const_emb_size,
            use_raw_coords, use_cosine, use_diagonal, fourier_scale, init_dist: See
            `published_config.FuserSettings`.

    Raises:
        ValueError: The logarithmic frequencies are more than log_emb_size.
    """

    def __init__(
        self,
        resolution: int,
        w_dim: int,
        log_emb_size: int = 0,
        random_emb_size: int = 0,
        shared_emb_size: int = 0,
        predictable_emb_size: int = 0,
        const_emb_size: int = 0,
        use_raw_coords: bool = False,
        use_cosine: bool = False,
        use_diagonal: bool = False,
        fourier_scale: float = 10**0.5,
        init_dist: str = "randn",
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.predictable_emb_size = predictable_emb_size
        self.const_emb_size = const_emb_size
        self.fourier_scale = float(fourier_scale)
        self.use_raw_coords = use_raw_coords
        self.use_cosine = use_cosine
        draw = torch.randn if init_dist == "randn" else lambda *size: 2 * torch.rand(*size) - 1
        num_rows = random_emb_size + shared_emb_size + predictable_emb_size
        if log_emb_size > 0:
            rows = log_basis_rows(resolution, use_diagonal)
            if len(rows) > log_emb_size:
                raise ValueError(
                    f"log_emb_size {log_emb_size} is too small for the {len(rows)} logarithmic "
                    f"frequencies of lattice {resolution}"
                )
            self.register_buffer("log_basis", rows)
            num_rows += len(rows)
        if random_emb_size > 0:
            self.register_buffer("random_basis", draw(random_emb_size, 2) * self.fourier_scale)
        if shared_emb_size > 0:
            self.shared_basis = nn.Parameter(draw(shared_emb_size, 2) * self.fourier_scale)
        if predictable_emb_size > 0:
            self.affine = FullyConnectedLayer(w_dim, 3 * predictable_emb_size)
        if const_emb_size > 0:
            self.const_embs = nn.Parameter(torch.randn(1, const_emb_size, resolution, resolution))
        self.num_shared_rows = num_rows - predictable_emb_size
        self.is_modulated = predictable_emb_size > 0
        waves = (2 if use_cosine else 1) * num_rows
        self.total_dim = 2 * use_raw_coords + waves + const_emb_size

    def predict(self, w: Tensor) -> tuple[Tensor, Tensor] | None:
        """Frequencies [N, k, 2] and phases [N, k] of each image for w [N, w_dim], if any."""
        if not self.is_modulated:
            return None
        rows, phase = self.affine(w).split(
            [2 * self.predictable_emb_size, self.predictable_emb_size], dim=1
        )
        return rows.unflatten(1, (self.predictable_emb_size, 2)) * self.fourier_scale, phase

    def arrange(self, weight: Tensor) -> Tensor:
        """Moves the columns [..., E] of a weight from the published order to that of `forward`.

        There the channels that differ between images come last (`CoordFeatures`).
        """
        if not self.is_modulated:
            return weight
        shared, own = self.num_shared_rows, self.predictable_emb_size
        sizes = [2 * self.use_raw_coords, *[shared, own] * (1 + self.use_cosine)]
        raw, *waves, const = weight.split([*sizes, self.const_emb_size], dim=-1)
        return torch.cat([raw, *waves[0::2], const, *waves[1::2]], dim=-1)

    def forward(
        self,
        level: GridLevel | PointLevel,
        predicted: tuple[Tensor, Tensor] | None,
        dtype: torch.dtype,
    ) -> CoordFeatures:
        """The features at the points of a level.

        Args:
            level: H x W points (single points: H = 1).
            predicted: Result of `predict`.
            dtype: Of the features; the phases are computed in float64 (float32 on MPS).
        """
        device = self._device(predicted)
        exact = exact_dtype(device)
        u, v = 2 * level.x - 1, 1 - 2 / self.resolution - 2 * level.y
        if isinstance(level, GridLevel):
            u, v = device_table(u, exact, device), device_table(v, exact, device)
        u, v = level.mesh(u.to(device, exact), v.to(device, exact))
        shared: list[Tensor] = []
        if self.use_raw_coords:
            raw = torch.broadcast_tensors(u, v)
            shared.append(torch.stack(raw).to(dtype))
        rows = self._shared_rows()
        if rows:
            shared.append(wave_features(u, v, torch.cat(rows), None, self.use_cosine, dtype))
        if self.const_emb_size:
            shared.append(read_table(self.const_embs.to(dtype), level))
        own = None
        if predicted is not None:
            own = wave_features(u, v, *predicted, self.use_cosine, dtype)
        return CoordFeatures(shared=torch.cat(shared) if shared else None, own=own)

    def _shared_rows(self) -> list[Tensor]:
        names = ("log_basis", "random_basis", "shared_basis")
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def _device(self, predicted: Sequence[Tensor] | None) -> torch.device:
        tensors = [*self.parameters(), *self.buffers(), *(predicted or ())]
        return tensors[0].device if tensors else torch.device("cpu")
