"""Public face of the op `bias_act`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

import dnnlib
from ops import _dispatch
from ops._native import register_native
from ops.bias_act import autograd, kernels, plain, reference


def _unsupported(tensors: Sequence[torch.Tensor]) -> list[str]:
    wrong = {str(tensor.dtype) for tensor in tensors if not tensor.is_floating_point()}
    return [f"it computes in floating point, got {', '.join(sorted(wrong))}"] if wrong else []


register_native(
    "bias_act",
    cpu_sources=("bias_act_cpu.cpp",),
    cuda_sources=("bias_act.cu",),
    header="bias_act.h",
    dtypes=(torch.float32, torch.float64),
    cuda_dtypes=(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    unsupported=_unsupported,
)

_CPU_MIN_SIZE = 1 << 18
"""Elements from which on the compiled CPU kernel is faster than `plain.py`."""

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

    Orders of gradient, x and b: 1st and 2nd by kernels where one runs (see `autograd.py`), else,
    and higher, composed by autograd.
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
    choice = _dispatch.choose("bias_act", (x, b), impl)[0]
    if choice != "ref" and x.numel() > 0:
        has_all = not kernels.sums_bias(choice)  # the CPU's library has no smooth activation
        faster = impl == "cpp" or x.device.type != "cpu" or _is_faster(x, act, clamp)
        if faster and (has_all or act in kernels.PIECEWISE_LINEAR):
            spec = plain.activation_funcs[act]
            options = autograd.BiasActOptions(
                dim % x.ndim,
                act,
                float(spec.def_alpha if alpha is None else alpha),
                float(spec.def_gain if gain is None else gain),
                -1.0 if clamp is None else float(clamp),
                choice,
            )
            return autograd.native_bias_act(x, b, options)
        if impl == "cpp":
            names = ", ".join(kernels.PIECEWISE_LINEAR)
            raise RuntimeError(f"bias_act: impl='cpp' cannot run: it has {names}, not {act}")
    module = reference if impl == "ref" else plain
    return module.bias_act(x, b, dim, act, alpha, gain, clamp)


def _is_faster(x: torch.Tensor, act: str, clamp: float | None) -> bool:
    """On the CPU: where the passes saved outweigh a call, and a gradient that needs the result."""
    return x.numel() >= _CPU_MIN_SIZE and (act != "linear" or clamp is not None)
