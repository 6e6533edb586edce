"""Definition of `inr_layer`: upsample, concatenate, multiply, activate. Slow, short, any order."""

from __future__ import annotations

import torch
from torch import Tensor

from ops.bias_act import bias_act
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps


def lattice_upsample(
    x: Tensor, rows: AxisTaps | PointTaps, cols: AxisTaps | None = None, impl: str = "ref"
) -> Tensor:
    """y = A_rows x A_cols^T per channel. See `ops.inr_layer.api.lattice_upsample`."""
    if cols is None:
        return (x.flatten(2) @ rows.matrix(x.dtype).t())[:, :, None]
    return rows.matrix(x.dtype) @ x @ cols.matrix(x.dtype).t()


def inr_layer(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,  # [O] or [N, O]
    *,
    taps: tuple[AxisTaps, AxisTaps] | tuple[PointTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "ref",
) -> Tensor:  # [N, O, H, W]
    """act(W [up(x); e(p)] + b) * gain, clamped. See `ops.inr_layer.api.inr_layer`."""
    batch = weight.shape[0]
    parts = []
    if x is not None:
        parts.append(x if taps is None else lattice_upsample(x, *taps))
    if coords is not None:
        height, width = parts[0].shape[2:] if parts else coords.grid_size()
        parts.append(coords.dense(batch, height, width))
    features = torch.cat(parts, dim=1)
    y = torch.bmm(weight, features.flatten(2)).unflatten(2, features.shape[2:])
    if bias is not None and bias.ndim == 2:
        y, bias = y + bias[:, :, None, None], None
    return bias_act(y, bias, act=act, gain=gain, clamp=clamp, impl="ref")
