"""Definition of `fourier` in plain PyTorch: differentiable to any order."""

from __future__ import annotations

import torch
from torch import Tensor


def fourier(
    u: Tensor,  # [W]
    v: Tensor,  # [H]
    rows: Tensor,  # [..., k, 2]
    phase: Tensor | None = None,  # [..., k]
    impl: str = "ref",
) -> Tensor:  # [..., 2k, H, W]
    """[sin; cos](rows_x u + rows_y v + phase). See `ops.fourier.api.fourier`."""
    horizontal = rows[..., 0:1] * u
    if phase is not None:
        horizontal = horizontal + phase[..., None]
    vertical = rows[..., 1:2] * v
    angle = vertical[..., :, None] + horizontal[..., None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=-3)
