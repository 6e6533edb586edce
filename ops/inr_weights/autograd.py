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
    def forward(ctx, call, *tensors):
        results, styles = call.forward(tensors)
        ctx.save_for_backward(*tensors, styles)
        ctx.call = call
        return tuple(results)

    @staticmethod
    def backward(ctx, *grads):
        *tensors, styles = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if not torch.is_grad_enabled():
            return None, *ctx.call.backward(grads, styles, tensors, wanted)

        def composed(*views: Tensor) -> list[Tensor]:
            *args, predict = kernels.grouped(views)
            activation = ctx.call.activation
            weights, rgb, predicted = reference.inr_weights(*args, activation, predict)
            return [*weights, rgb] if predict is None else [*weights, rgb, predicted]

        return None, *composed_gradients(composed, tensors, wanted, grads)


def native_weights(
    call: kernels.WeightsCall, tensors: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
    """`inr_weights` by the kernel; recorded only where a gradient is wanted."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        results = InrWeights.apply(call, *tensors)
    else:
        results, _styles = call.forward(tensors)
    rgb, *predicted = results[call.num_layers :]
    return tuple(results[: call.num_layers]), rgb, predicted[0] if predicted else None
