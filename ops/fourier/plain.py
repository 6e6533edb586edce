"""`fourier` in plain PyTorch, rearranged for CPUs: equal to the definition, cheaper, any order.

By the addition theorems sin(a + b) = sin b cos a + cos b sin a, cos(a + b) = cos b cos a - sin b
sin a, so sines are needed for the H + W entries of two tables instead of the H W points; the rest
is one product of [H, 2] and [2, W] per feature. Two to five times as fast on one core, forward and
backward.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fourier(
    u: Tensor,  # [W]
    v: Tensor,  # [H]
    rows: Tensor,  # [..., k, 2]
    phase: Tensor | None = None,  # [..., k]
    impl: str = "auto",
) -> Tensor:  # [..., 2k, H, W]
    """[sin; cos](rows_x u + rows_y v + phase). See `ops.fourier.api.fourier`."""
    horizontal, vertical = rows[..., 0:1] * u, rows[..., 1:2] * v
    if phase is not None:
        horizontal = horizontal + phase[..., None]
    if rows.device.type != "cpu" or rows.dtype not in (torch.float32, torch.float64):
        # Sines are cheap there, and a product could be rounded to TF32.
        angle = vertical[..., :, None] + horizontal[..., None, :]
        return torch.cat([angle.sin(), angle.cos()], dim=-3)
    sin_a, cos_a = horizontal.sin(), horizontal.cos()
    sin_b, cos_b = vertical.sin(), vertical.cos()
    left = torch.stack([torch.cat([sin_b, cos_b], -2), torch.cat([cos_b, -sin_b], -2)], -1)
    right = torch.stack([torch.cat([cos_a, cos_a], -2), torch.cat([sin_a, sin_a], -2)], -2)
    return left @ right
