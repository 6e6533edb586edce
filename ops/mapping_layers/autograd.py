"""Gradients of `mapping_layers` on the kernel.

1st order by the kernel. Where the backward pass itself is recorded (`create_graph=True`), the
composition of `affine` and `bias_act` takes its place: any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops._native import composed_gradients
from ops.mapping_layers import kernels, reference


class MappingLayers(torch.autograd.Function):
    """w from the tensors that `kernels` describes."""

    @staticmethod
    def forward(ctx, call, *tensors):
        w, saved, scales = call.forward(tensors)
        ctx.save_for_backward(*tensors, saved, scales)
        ctx.call = call
        return w

    @staticmethod
    def backward(ctx, grad):
        *tensors, saved, scales = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if not torch.is_grad_enabled():
            return None, *ctx.call.backward(grad, saved, scales, tensors, wanted)

        def composed(*views: Tensor | None) -> Tensor:
            z, c, *embed, weights, biases = kernels.grouped(views)
            layers = list(zip(weights, biases))
            return reference.mapping_layers(z, c, embed, layers, *ctx.call.options)

        return None, *composed_gradients(composed, tensors, wanted, grad)


def native_mapping(call: kernels.MappingCall, tensors: Sequence[Tensor | None]) -> Tensor:
    """`mapping_layers` by the kernel; recorded only where a gradient is wanted."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return MappingLayers.apply(call, *tensors)
    return call.forward(tensors)[0]
