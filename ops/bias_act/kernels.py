"""The kernels of `bias_act` as functions of tensors: layouts, sums over the bias.

They are declared in `bias_act.h`. Nothing here is differentiable, see `autograd.py` for that. All
functions share these arguments:

    b       [x.shape[dim]] or None
    dim     dimension of x that the bias belongs to, >= 0
    act     key of `activation_funcs`; the CPU's library has those of `PIECEWISE_LINEAR`
    alpha   shape parameter
    gain    factor after the activation
    clamp   largest absolute value of the result; -1 = no limit
    impl    "cpp" or "cuda", as `ops._dispatch.choose` says
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import native_op
from ops.bias_act import plain

PIECEWISE_LINEAR = {"linear": 1.0, "relu": 0.0, "lrelu": plain.activation_funcs["lrelu"].def_alpha}
"""Activations without a second derivative, and their slopes below 0."""

LEAKY_SLOPES = {act: slope for act, slope in PIECEWISE_LINEAR.items() if slope > 0}
"""Those whose result tells the sign of what they were applied to: the C++ of whole layers."""


def slope_from_result(act: str, alpha: float, gain: float) -> bool:
    """Whether the result tells on which side of 0 the input was."""
    return act in PIECEWISE_LINEAR and gain > 0 and alpha >= 0


def _fake_forward(x, b, dim, act, alpha, gain, clamp, impl):
    return torch.empty_like(x)


@native_op("bias_act_forward", _fake_forward)
def forward(
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    impl: str,
) -> Tensor:
    """clamp(gain * act(x + b)).

    Args:
        x: Dense, see `dense`.
        b, dim, act, alpha, gain, clamp, impl: See above.

    Returns:
        Like `x`.
    """
    x = _aligned(x)
    y = torch.empty_like(x)
    b = None if b is None else b.contiguous()
    _launch("bias_act_forward", impl, dim, act, alpha, gain, clamp, x=x, b=b, out=y)
    return y


def _fake_gradient(dy, kept, b, dim, act, alpha, gain, clamp, impl, wants_db):
    dx = torch.empty_like(kept)
    return [dx, kept.new_empty([kept.shape[dim]])] if wants_db else [dx]


@native_op("bias_act_gradient", _fake_gradient)
def gradient(
    dy: Tensor,
    kept: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    impl: str,
    wants_db: bool,
) -> list[Tensor]:
    """The gradient of x and, if it is wanted, that of b.

    Args:
        dy: Gradient of the result.
        kept: Dense: the result of `forward` where `slope_from_result` holds, else its x.
        b, dim, act, alpha, gain, clamp, impl: See above; b is read where `kept` is x.
        wants_db: Whether to sum over the bias.

    Returns:
        [dx] or [dx, db]; dx like `kept`.
    """
    kept = _aligned(kept)
    dy = _like(dy, kept)
    dx = torch.empty_like(kept)
    from_result = slope_from_result(act, alpha, gain)
    db = None
    if wants_db and kept.stride(dim) > 1 and sums_bias(impl):
        db = kept.new_empty(kept.shape[dim])
    b = None if b is None or from_result else b.contiguous()
    options = dim, act, alpha, gain, clamp
    _launch("bias_act_gradient", impl, *options, x=kept, b=b, dy=dy, out=dx, db=db)
    if not wants_db:
        return [dx]
    return [dx, sum_to_bias(dx, dim) if db is None else db]


def _fake_curvature(ddx, dy, x, b, dim, act, alpha, gain, clamp, impl):
    return torch.empty_like(x)


@native_op("bias_act_curvature", _fake_curvature)
def curvature(
    ddx: Tensor,
    dy: Tensor,
    x: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
    impl: str,
) -> Tensor:
    """ddx * dy * gain * act''(x + b) inside the clamp; "cuda" only.

    Args:
        ddx, dy: Like `x`, in any memory order.
        x: Dense, see `dense`.
        b, dim, act, alpha, gain, clamp, impl: See above.

    Returns:
        Like `x`.
    """
    x = _aligned(x)
    b = None if b is None else b.contiguous()
    tensors = {"dy": _like(dy, x), "ddx": _like(ddx, x), "out": torch.empty_like(x)}
    _launch("bias_act_curvature", impl, dim, act, alpha, gain, clamp, x=x, b=b, **tensors)
    return tensors["out"]


def _launch(name, impl, dim, act, alpha, gain, clamp, *, x, b, db=None, **tensors) -> None:
    """Runs a kernel of `bias_act.h` on tensors that are dense and alike."""
    channels = x.shape[dim] if b is not None or db is not None else 1
    from_result = name == "bias_act_gradient" and slope_from_result(act, alpha, gain)
    _dispatch.kernel_module("bias_act", impl).call(
        name,
        x=x,
        b=b,
        db=db,
        **tensors,
        dtype=x.dtype,
        size=x.numel(),
        channels=channels,
        step=x.stride(dim) if channels > 1 else max(x.numel(), 1),
        act=plain.activation_funcs[act].cuda_idx,
        from_result=int(from_result),
        alpha=alpha,
        gain=gain,
        clamp=clamp,
    )


def sums_bias(impl: str) -> bool:
    """Whether this library's gradient kernel sums the gradient of the bias as well (the CPU's)."""
    return not _dispatch.kernel_module("bias_act", impl).has("bias_act_curvature")


def dense(x: Tensor) -> Tensor:
    """x itself if it fills its memory without gaps in any order of dimensions, else a copy."""
    if x.is_contiguous():
        return x
    expected = 1
    # The dimensions longer than one, the fastest first.
    for stride, size in sorted((a, n) for a, n in zip(x.stride(), x.shape) if n > 1):
        if stride != expected:
            return x.contiguous()
        expected *= size
    return x


def sum_to_bias(x: Tensor, dim: int) -> Tensor:
    """The sum over all dimensions but one; a new tensor."""
    return x.sum([i for i in range(x.ndim) if i != dim]) if x.ndim > 1 else x.clone()


def _aligned(x: Tensor) -> Tensor:
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _like(x: Tensor, other: Tensor) -> Tensor:
    """x in the memory order of `other`."""
    if x.is_contiguous() and other.is_contiguous():
        return _aligned(x)
    same = all(a == b or size == 1 for a, b, size in zip(x.stride(), other.stride(), x.shape))
    return _aligned(x) if same else torch.empty_like(other).copy_(x)
