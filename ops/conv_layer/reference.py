"""The definition of `conv_layer`: `conv2d_resample`, then `bias_act`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ops.bias_act.reference import bias_act
from ops.conv2d_resample.reference import conv2d_resample


def conv_layer(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_weight: bool = True,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    weight_gain: float = 1,
    impl: str = "ref",
) -> torch.Tensor:
    """Resample, convolve, add, activate; see `ops.conv_layer.conv_layer`. `impl` is ignored."""
    w = (w * weight_gain).to(x.dtype)
    x = conv2d_resample(x, w, f, up, down, padding, flip_weight=flip_weight)
    return bias_act(x, None if b is None else b.to(x.dtype), 1, act, alpha, gain, clamp)
