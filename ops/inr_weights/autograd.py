"""Gradients of `inr_weights` on the kernel.

1st order: one kernel for all tensors, from the styles that the forward keeps. Where the backward
pass itself is recorded (`create_graph=True`), the composition of `affine` and `fmm` takes its
place: any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops._native import composed_gradients
from ops.inr_weights import kernels, reference


class InrWeights(torch.autograd.Function):
    """Weights of a block from the tensors of `kernels.flat`."""

    @staticmethod
    def forward(ctx, activation, *tensors):
        results, styles = kernels.forward(tensors, activation)
        ctx.save_for_backward(*tensors, styles)
        ctx.activation = activation
        return tuple(results)

    @staticmethod
    def backward(ctx, *grads):
        *tensors, styles = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if not torch.is_grad_enabled():
            return None, *kernels.backward(grads, styles, tensors, ctx.activation, wanted)

        def composed(*views: Tensor) -> list[Tensor]:
            *args, predict = kernels.grouped(views)
            weights, rgb, predicted = reference.inr_weights(*args, ctx.activation, predict)
            return [*weights, rgb] if predict is None else [*weights, rgb, predicted]

        return None, *composed_gradients(composed, tensors, wanted, grads)


def native_weights(
    tensors: Sequence[Tensor], activation: str
) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
    """`inr_weights` by the kernel; recorded only where a gradient is wanted."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        results = InrWeights.apply(activation, *tensors)
    else:
        results, _styles = kernels.forward(tensors, activation)
    count = (len(tensors) - 4) // 3
    rgb, *predicted = results[count:]
    return tuple(results[:count]), rgb, predicted[0] if predicted else None
