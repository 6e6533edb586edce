"""Derivatives of `bias_act` from its compiled kernels.

With p = x + b, inside = |gain * act(p)| < clamp and s = gain * act'(p) * inside:

    1st order   dx = dy * s                                   kernel `bias_act_gradient`
    2nd order   d(dy) = ddx * s                               the same, as it is linear in dy
                d(x) = ddx * dy * gain * act''(p) * inside    kernel `bias_act_curvature`
    3rd order   composed from the plain definition; linear, relu and lrelu need nothing new

Gradients of the bias are sums of those of x. Where the slope can be told from the result, that is
kept instead of the input, whose memory can then be used again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ops import _dispatch
from ops.bias_act import plain

PIECEWISE_LINEAR = ("linear", "relu", "lrelu")
"""Activations without a second derivative."""


@dataclass(frozen=True)
class BiasActOptions:
    """What is not a tensor.

    Attributes:
        impl: "cpp" or "cuda".
        dim: Dimension of x that the bias belongs to, >= 0.
        act: Key of `activation_funcs`.
        alpha: Shape parameter.
        gain: Factor after the activation.
        clamp: Largest absolute value of the result; -1 = no limit.
    """

    impl: str
    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float

    def from_result(self) -> bool:
        """Whether the result tells on which side of 0 the input was."""
        return self.act in PIECEWISE_LINEAR and self.gain > 0 and self.alpha >= 0


class BiasAct(torch.autograd.Function):
    """1st order: `BiasActGradient`; that of b is the sum of that of x."""

    @staticmethod
    def forward(ctx, x, b, options):
        x = _dense(x)
        b = None if b is None else b.contiguous()
        y = torch.empty_like(x)
        launch("bias_act_forward", options, x=x, b=b, out=y)
        ctx.options = options
        needs_b = ctx.needs_input_grad[1]
        if options.from_result():
            ctx.save_for_backward(y, b if needs_b else None)
        else:
            ctx.save_for_backward(x, b)
        return y

    @staticmethod
    def backward(ctx, dy):
        kept, b = ctx.saved_tensors
        dx, db = BiasActGradient.apply(dy, kept, b, ctx.options, ctx.needs_input_grad[1])
        return dx, db, None


class BiasActGradient(torch.autograd.Function):
    """2nd order: itself in dy, the curvature in x and b. `kept` is x or the result, see above."""

    @staticmethod
    def forward(ctx, dy, kept, b, options, wants_db):
        dy = _like(dy, kept)
        dx = torch.empty_like(kept)
        db = None
        if wants_db and kept.stride(options.dim) > 1 and sums_bias(options.impl):
            db = torch.empty_like(b)
        bias = None if options.from_result() else b
        launch("bias_act_gradient", options, x=kept, b=bias, dy=dy, out=dx, db=db)
        if wants_db and db is None:
            db = _sum_to_bias(dx, options.dim)
        ctx.options = options
        ctx.save_for_backward(dy, kept, b)
        return dx, db

    @staticmethod
    def backward(ctx, ddx, ddb):
        dy, kept, b = ctx.saved_tensors
        options = ctx.options
        if ddb is not None:
            ddb = ddb.reshape([-1 if i == options.dim else 1 for i in range(kept.ndim)])
            ddx = ddb.expand_as(kept) if ddx is None else ddx + ddb
        if ddx is None:
            return None, None, None, None, None
        d_dy = d_x = d_b = None
        if ctx.needs_input_grad[0]:
            d_dy = BiasActGradient.apply(ddx, kept, b, options, False)[0]
        if options.act not in PIECEWISE_LINEAR and any(ctx.needs_input_grad[1:3]):
            d_x = curvature(ddx, dy, kept, b, options)
            d_b = None if b is None else _sum_to_bias(d_x, options.dim)
        return d_dy, d_x, d_b, None, None


def curvature(
    ddx: torch.Tensor,
    dy: torch.Tensor,
    x: torch.Tensor,
    b: torch.Tensor | None,
    options: BiasActOptions,
) -> torch.Tensor:
    """ddx * dy * gain * act''(x + b) inside the clamp; differentiable if gradients are on.

    Args:
        ddx, dy, x: Any shape, all alike.
        b: [x.shape[dim]] or None.
        options: See BiasActOptions.
    """
    if not torch.is_grad_enabled():
        ddx, dy = _like(ddx, x), _like(dy, x)
        out = torch.empty_like(x)
        launch("bias_act_curvature", options, x=x, b=b, dy=dy, ddx=ddx, out=out)
        return out
    # d/dx of <ddx, dx(x)>, with dx from the plain definition: exact, and differentiable again.
    point = x if x.requires_grad else x.detach().requires_grad_()
    clamp = None if options.clamp < 0 else options.clamp
    y = plain.bias_act(point, b, options.dim, options.act, options.alpha, options.gain, clamp)
    (dx,) = torch.autograd.grad(y, point, dy, create_graph=True)
    if not dx.requires_grad:
        return torch.zeros_like(x)
    (out,) = torch.autograd.grad(dx, point, ddx, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if out is None else out


def launch(name: str, options: BiasActOptions, *, x, b, out, **tensors) -> None:
    """Runs a kernel of `bias_act.h`.

    Args:
        name: Its name.
        options: See BiasActOptions.
        x, b, out, **tensors: Tensors of the fields of these names, dense and alike.
    """
    biased = b is not None or tensors.get("db") is not None
    channels = x.shape[options.dim] if biased else 1
    _dispatch.kernel_module("bias_act", options.impl).call(
        name,
        x=x,
        b=b,
        out=out,
        **tensors,
        dtype=x.dtype,
        size=x.numel(),
        channels=channels,
        step=x.stride(options.dim) if channels > 1 else max(x.numel(), 1),
        act=plain.activation_funcs[options.act].cuda_idx,
        from_result=int(options.from_result() and name != "bias_act_forward"),
        alpha=options.alpha,
        gain=options.gain,
        clamp=options.clamp,
    )


def sums_bias(impl: str) -> bool:
    """Whether this library's gradient kernel sums the gradient of the bias as well (the CPU's)."""
    return not _dispatch.kernel_module("bias_act", impl).has("bias_act_curvature")


def _memory_order(x: torch.Tensor) -> list[tuple[int, int]]:
    """(stride, size) of the dimensions longer than one, the fastest first."""
    return sorted((stride, size) for stride, size in zip(x.stride(), x.shape) if size > 1)


def _aligned(x: torch.Tensor) -> torch.Tensor:
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _dense(x: torch.Tensor) -> torch.Tensor:
    """x itself if it fills its memory without gaps in any order of dimensions, else a copy."""
    expected = 1
    for stride, size in _memory_order(x):
        if stride != expected:
            return _aligned(x.contiguous())
        expected *= size
    return _aligned(x)


def _like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """x in the memory order of `other`."""
    same = all(a == b or size == 1 for a, b, size in zip(x.stride(), other.stride(), x.shape))
    return _aligned(x) if same else torch.empty_like(other).copy_(x)


def _sum_to_bias(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.sum([i for i in range(x.ndim) if i != dim]) if x.ndim > 1 else x
