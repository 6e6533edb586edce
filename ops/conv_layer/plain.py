"""`conv_layer` as the ops that it consists of (portable: runs from the source in a snapshot)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ops.bias_act import bias_act
from ops.conv2d_resample import conv2d_resample


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
    impl: str = "auto",
) -> torch.Tensor:
    """Resample, convolve, add, activate; see `ops.conv_layer.conv_layer`."""
    x = conv2d_resample(
        x,
        (w * weight_gain).to(x.dtype),
        f,
        up=up,
        down=down,
        padding=padding,
        flip_weight=flip_weight,
        impl=impl,
    )
    bias = None if b is None else b.to(x.dtype)
    return bias_act(x, bias, act=act, alpha=alpha, gain=gain, clamp=clamp, impl=impl)
