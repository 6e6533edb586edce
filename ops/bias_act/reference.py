"""The definition of `bias_act` in plain PyTorch."""

from __future__ import annotations

import torch

from ops.bias_act.plain import activation_funcs


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """clamp(gain * act(x + b), -clamp, clamp); see `ops.bias_act.bias_act`. `impl` is ignored."""
    spec = activation_funcs[act]
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + b.reshape(shape)
    x = spec.func(x, alpha=spec.def_alpha if alpha is None else alpha)
    x = x * (spec.def_gain if gain is None else gain)
    return x if clamp is None else x.clamp(-clamp, clamp)
