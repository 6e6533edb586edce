"""Gradients of `fmm` on the kernels.

1st order: the kernel, which computes M, g and the row norms again from weight, a and b.
2nd and higher: where the backward itself is recorded (`create_graph=True`), it differentiates the
definition in `reference.py` instead, which is composed of PyTorch's operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ops.fmm import kernels, reference


class FMM(torch.autograd.Function):
    """W [N, O, I] from weight [O, I], a [N, O, r], b [N, r, I], an activation and a dtype."""

    @staticmethod
    def forward(ctx, library, weight, a, b, activation, out_dtype):  # noqa: D102
        ctx.save_for_backward(weight, a, b)
        ctx.library, ctx.activation, ctx.out_dtype = library, activation, out_dtype
        return kernels.forward(library, weight, a, b, activation, out_dtype)

    @staticmethod
    def backward(ctx, grad):  # noqa: D102
        wanted = ctx.needs_input_grad[1:4]
        differentiate = composed_gradients if torch.is_grad_enabled() else kernel_gradients
        return None, *differentiate(ctx, grad, wanted), None, None


def kernel_gradients(ctx: Any, grad: Tensor, wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """Gradients of weight, a and b by the kernel, None where not wanted."""
    return kernels.backward(ctx.library, grad, *ctx.saved_tensors, ctx.activation, wanted)


def composed_gradients(ctx: Any, grad: Tensor, wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """The same, differentiable with respect to the gradient, weight, a and b."""
    # Views of their own: with respect to these only, even if one of them depends on another.
    inputs = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
    out = reference.fmm(*inputs, ctx.activation, out_dtype=ctx.out_dtype)
    chosen = [tensor for tensor, needed in zip(inputs, wanted) if needed]
    gradients = iter(torch.autograd.grad(out, chosen, grad, create_graph=True))
    return [next(gradients) if needed else None for needed in wanted]


def native_fmm(
    library: Any,
    weight: Tensor,  # [O, I]
    a: Tensor,  # [N, O, r]
    b: Tensor,  # [N, r, I]
    activation: str,
    out_dtype: torch.dtype,
) -> Tensor:  # [N, O, I]
    """`fmm` by a loaded library; recorded only where a gradient is wanted."""
    written = kernels.result_dtype(weight, out_dtype)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (weight, a, b)):
        composed = FMM.apply(library, weight, a, b, activation, written)
    else:
        composed = kernels.forward(library, weight, a, b, activation, written)
    return composed.to(out_dtype)
