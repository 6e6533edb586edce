"""Gradients of `fmm` on the kernels.

1st order: the kernel, which computes M, g and the row norms again from weight, a and b.
2nd and higher: where the backward itself is recorded (`create_graph=True`), it differentiates the
definition in `reference.py` instead, which is composed of PyTorch's operations.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ops._native import composed_gradients, in_places
from ops.fmm import kernels, reference


class FMM(torch.autograd.Function):
    """W [N, O, I] from weight [O, I], a [N, O, r], b [N, r, I], an activation and a dtype."""

    @staticmethod
    def forward(ctx, weight, a, b, activation, out_dtype, impl):  # noqa: D102
        ctx.save_for_backward(weight, a, b)
        ctx.activation, ctx.out_dtype, ctx.impl = activation, out_dtype, impl
        return kernels.forward(weight, a, b, activation, out_dtype, impl)

    @staticmethod
    def backward(ctx, grad):  # noqa: D102
        wanted = list(ctx.needs_input_grad[:3])
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            definition = functools.partial(
                reference.fmm, activation=ctx.activation, out_dtype=ctx.out_dtype
            )
            gradients = composed_gradients(definition, tensors, wanted, grad)
        else:
            found = kernels.backward(grad, *tensors, ctx.activation, wanted, ctx.impl)
            gradients = in_places(found, wanted)
        return *gradients, None, None, None


def native_fmm(
    weight: Tensor,  # [O, I]
    a: Tensor,  # [N, O, r]
    b: Tensor,  # [N, r, I]
    activation: str,
    out_dtype: torch.dtype,
    impl: str,
) -> Tensor:  # [N, O, I]
    """`fmm` by the kernel `impl`; recorded only where a gradient is wanted."""
    written = kernels.result_dtype(weight, out_dtype)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (weight, a, b)):
        composed = FMM.apply(weight, a, b, activation, written, impl)
    else:
        composed = kernels.forward(weight, a, b, activation, written, impl)
    return composed.to(out_dtype)
