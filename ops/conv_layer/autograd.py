"""Gradients of `conv_layer` on kernels.

1st order: one kernel for the gradients of x, w and b, from the inputs and the result, which tells
on which side of 0 and of the clamp a number was. Where the backward pass itself is recorded
(`create_graph=True`), the plain composition takes its place: any order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ops.conv2d import gradfix
from ops.conv_layer import kernels, plain


class LayerCall(NamedTuple):
    """One call in both descriptions.

    Attributes:
        options: What the kernels take.
        arguments: Keyword arguments of `plain.conv_layer` besides x, w and b.
    """

    options: kernels.ConvLayerOptions
    arguments: dict


class ConvLayer(torch.autograd.Function):
    """y = conv_layer(x, w, b); see the module for its derivatives."""

    @staticmethod
    def forward(ctx, x, w, b, call):
        y = kernels.forward(x, w, b, call.options)
        ctx.save_for_backward(x, w, b, y)
        ctx.call = call
        return y

    @staticmethod
    def backward(ctx, grad):
        x, w, b, y = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        if torch.is_grad_enabled():
            return *_composed_gradients(ctx.call, (x, w, b), wanted, grad), None
        wanted[1] = wanted[1] and not gradfix.weight_gradients_disabled
        return *kernels.backward(grad, y, x, w, ctx.call.options, wanted), None


def _composed_gradients(call, tensors, wanted, grad):
    """The same by differentiable operations; a weight's gradient may be switched off there."""
    with torch.enable_grad():
        # Views, so that a tensor which another one depends on gets its own share only.
        x, w, b = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        y = plain.conv_layer(x, w, b, **call.arguments)
        inputs = [tensor for tensor, want in zip((x, w, b), wanted) if want]
        found = iter(
            torch.autograd.grad(y, inputs, grad, create_graph=True, allow_unused=True)
            if inputs
            else ()
        )
    return [next(found) if want else None for want in wanted]
