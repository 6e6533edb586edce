"""Derivatives of `bias_act` from its compiled kernels.

With p = x + b, inside = |gain * act(p)| < clamp and s = gain * act'(p) * inside:

    1st order   dx = dy * s                                   `kernels.gradient`
    2nd order   d(dy) = ddx * s                               the same, as it is linear in dy
                d(x) = ddx * dy * gain * act''(p) * inside    `kernels.curvature`
    3rd order   composed from the plain definition; linear, relu and lrelu need nothing new

Gradients of the bias are sums of those of x. Where the slope can be told from the result, that is
kept instead of the input, whose memory can then be used again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ops.bias_act import kernels, plain


class BiasActOptions(NamedTuple):
    """What is not a tensor, in the order of the arguments in `kernels.py`; see there."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float
    impl: str

    def from_result(self) -> bool:
        """Whether the result tells on which side of 0 the input was."""
        return kernels.slope_from_result(self.act, self.alpha, self.gain)


def native_bias_act(
    x: torch.Tensor, b: torch.Tensor | None, options: BiasActOptions
) -> torch.Tensor:
    """`bias_act` by a kernel; recorded only where a gradient is wanted.

    Args:
        x: Any shape.
        b: [x.shape[dim]] or None.
        options: See BiasActOptions.
    """
    if torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad)):
        return BiasAct.apply(x, b, options)
    return kernels.forward(kernels.dense(x), b, *options)


class BiasAct(torch.autograd.Function):
    """1st order: `BiasActGradient`; that of b is the sum of that of x."""

    @staticmethod
    def forward(ctx, x, b, options):
        ctx.options = options
        x = kernels.dense(x)
        y = kernels.forward(x, b, *options)
        if options.from_result():
            ctx.save_for_backward(y, b if ctx.needs_input_grad[1] else None)
        else:
            ctx.save_for_backward(x, b)
        return y

    @staticmethod
    def backward(ctx, dy):
        kept, b = ctx.saved_tensors
        wants_db = ctx.needs_input_grad[1]
        if torch.is_grad_enabled():
            dx, db = BiasActGradient.apply(dy, kept, b, wants_db, ctx.options)
        elif wants_db:
            dx, db = kernels.gradient(dy, kept, b, *ctx.options, True)
        else:
            (dx,), db = kernels.gradient(dy, kept, b, *ctx.options, False), None
        return dx, db, None


class BiasActGradient(torch.autograd.Function):
    """2nd order: itself in dy, the curvature in x and b. `kept` is x or the result, see above."""

    @staticmethod
    def forward(ctx, dy, kept, b, wants_db, options):
        ctx.options = options
        ctx.save_for_backward(dy, kept, b)
        dx, *sums = kernels.gradient(dy, kept, b, *options, wants_db)
        return dx, sums[0] if sums else None

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
            d_dy = BiasActGradient.apply(ddx, kept, b, False, options)[0]
        if options.act not in kernels.PIECEWISE_LINEAR and any(ctx.needs_input_grad[1:3]):
            d_x = curvature(ddx, dy, kept, b, options)
            d_b = None if b is None else kernels.sum_to_bias(d_x, options.dim)
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
        return kernels.curvature(ddx, dy, x, b, *options)
    # d/dx of <ddx, dx(x)>, with dx from the plain definition: exact, and differentiable again.
    point = x if x.requires_grad else x.detach().requires_grad_()
    clamp = None if options.clamp < 0 else options.clamp
    y = plain.bias_act(point, b, options.dim, options.act, options.alpha, options.gain, clamp)
    (dx,) = torch.autograd.grad(y, point, dy, create_graph=True)
    if not dx.requires_grad:
        return torch.zeros_like(x)
    (out,) = torch.autograd.grad(dx, point, ddx, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if out is None else out
