"""Gradients of `conv_layer` on kernels.

1st order: one kernel for the gradients of x, w and b, from the inputs and the result, which tells
on which side of 0 and of the clamp a number was. Where the backward pass itself is recorded
(`create_graph=True`), the plain composition takes its place: any order.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from ops._native import composed_gradients
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
            # Where weight gradients are switched off, that of w stays None.
            layer = functools.partial(plain.conv_layer, **ctx.call.arguments)
            return *composed_gradients(layer, (x, w, b), wanted, grad, allow_unused=True), None
        wanted[1] = wanted[1] and not gradfix.weight_gradients_disabled
        return *kernels.backward(grad, y, x, w, ctx.call.options, wanted), None
