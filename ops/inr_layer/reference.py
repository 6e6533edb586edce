"""Definition of `inr_layer`: upsample, concatenate, multiply, activate. Slow, short, any order."""

from __future__ import annotations

import torch
from torch import Tensor

from ops.bias_act import bias_act
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps


def lattice_upsample(x: Tensor, *taps: AxisTaps | PointTaps, impl: str = "ref") -> Tensor:
    """y = A_rows x A_cols^T per channel. See `ops.inr_layer.api.lattice_upsample`."""
    if isinstance(taps[0], PointTaps):
        return (x.flatten(2) @ taps[0].matrix(x.dtype).t())[:, :, None]
    for dim, axis in enumerate(taps, start=2):
        x = (x.movedim(dim, -1) @ axis.matrix(x.dtype).t()).movedim(-1, dim)
    return x


def inr_layer(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,  # [O] or [N, O]
    *,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None = None,
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
        size = parts[0].shape[2:] if parts else coords.grid_size()
        parts.append(coords.dense(batch, *size))
    features = torch.cat(parts, dim=1)
    y = torch.bmm(weight, features.flatten(2))
    if bias is not None and bias.ndim == 2:
        y, bias = y + bias[:, :, None], None
    y = y.unflatten(2, features.shape[2:])
    return bias_act(y, bias, act=act, gain=gain, clamp=clamp, impl="ref")
