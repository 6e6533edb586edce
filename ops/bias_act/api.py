"""Public face of the op `bias_act`."""

from __future__ import annotations

import dataclasses

import torch

import dnnlib
from ops._dispatch import choose
from ops.bias_act import plain, reference

activation_funcs = {
    name: dnnlib.EasyDict(
        {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    )
    for name, spec in plain.activation_funcs.items()
}
"""Activation functions by name: func, def_alpha, def_gain, cuda_idx, ref, has_2nd_grad."""


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
    """y = clamp(gain * act(x + b, alpha), -clamp, clamp).

    Args:
        x: Any shape, floating point.
        b: [x.shape[dim]], dtype of `x`. None = no bias.
        dim: The dimension of `x` that `b` belongs to.
        act: A key of `activation_funcs`.
        alpha: Shape parameter (slope of lrelu). None = the function's default.
        gain: Factor after the activation. None = the function's default, which keeps the second
            moment of a unit normal input near one.
        clamp: Largest absolute value of the output, >= 0. None = no limit.
        impl: "auto" | "ref" | "cuda" | "cpp", see `ops._dispatch.choose`.

    Returns:
        Shape and dtype of `x`.

    Raises:
        ValueError: Unknown `act`, negative `clamp`, or `b` does not fit `x`.
        TypeError: `b` has another dtype than `x`.

    Orders of gradient, x and b: 1st, 2nd and higher composed by autograd.
    """
    if act not in activation_funcs:
        raise ValueError(f"act must be one of {', '.join(activation_funcs)}, got {act!r}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp must be None or >= 0, got {clamp}")
    if b is not None:
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"dim must be a dimension of x {list(x.shape)}, got {dim}")
        if b.ndim != 1 or b.shape[0] != x.shape[dim]:
            raise ValueError(f"b must have shape [{x.shape[dim]}], got {list(b.shape)}")
        if b.dtype != x.dtype:
            raise TypeError(f"b must have the dtype of x, {x.dtype}, got {b.dtype}")
    choose("bias_act", (x, b), impl)
    module = reference if impl == "ref" else plain
    return module.bias_act(x, b, dim, act, alpha, gain, clamp)
