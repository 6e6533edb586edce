"""Convolution whose backward passes can leave out the gradient of the weight.

PyTorch's own convolution already computes only what `torch.autograd.grad(outputs, inputs)` asks
for, and is what runs by default. These Functions serve code that sets `gradfix.enabled` and calls
`backward()` inside `no_weight_gradients()`, and convolutions for which `winograd.py` has a faster
algorithm, here and in both gradients. All three maps are linear in each argument, so they
close under differentiation: 1st, 2nd and higher orders come from the same two Functions.
"""

from __future__ import annotations

import torch

from ops.conv2d import gradfix, winograd


class Convolution(torch.autograd.Function):
    """y = conv(x, w) + b, or its transpose; `stride`, ... are lists of two ints."""

    @staticmethod
    def forward(ctx, x, w, b, stride, padding, dilation, transposed, output_padding, groups):
        ctx.save_for_backward(x, w)
        ctx.args = stride, padding, dilation, transposed, output_padding, groups
        if winograd.suits(x, w, stride, padding, dilation, groups):
            y = winograd.convolve(x, w, padding, transposed)
            return y if b is None else y.add_(b[:, None, None])
        return torch.ops.aten.convolution(x, w, b, *ctx.args)

    @staticmethod
    def backward(ctx, grad_y):
        x, w = ctx.saved_tensors
        grad_x = grad_w = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_x = Convolution.apply(grad_y, w, None, *_transposed(ctx.args, x, w, grad_y))
        if ctx.needs_input_grad[1] and not gradfix.weight_gradients_disabled:
            grad_w = WeightGradient.apply(grad_y, x, w.detach(), *ctx.args)
        if ctx.needs_input_grad[2]:
            grad_b = grad_y.sum([0, 2, 3])
        return grad_x, grad_w, grad_b, None, None, None, None, None, None


class WeightGradient(torch.autograd.Function):
    """d <grad_y, conv(x, w)> / d w, bilinear in grad_y and x; of `w` only the shape matters."""

    @staticmethod
    def forward(ctx, grad_y, x, w, *args):
        ctx.save_for_backward(grad_y, x)
        ctx.args = args
        stride, padding, dilation, transposed, output_padding, groups = args
        if winograd.suits(x, w, stride, padding, dilation, groups):
            image, result = (grad_y, x) if transposed else (x, grad_y)
            return winograd.weight_gradient(image, result, padding)
        return torch.ops.aten.convolution_backward(
            grad_y,
            x,
            w,
            None,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            groups,
            [False, True, False],
        )[1]

    @staticmethod
    def backward(ctx, grad_w):
        grad_y, x = ctx.saved_tensors
        grad_grad_y = grad_x = None
        if ctx.needs_input_grad[0]:
            grad_grad_y = Convolution.apply(x, grad_w, None, *ctx.args)
        if ctx.needs_input_grad[1]:
            args = _transposed(ctx.args, x, grad_w, grad_y)
            grad_x = Convolution.apply(grad_y, grad_w, None, *args)
        return grad_grad_y, grad_x, None, *[None] * 6


def _transposed(args, x, w, y):
    """Arguments of the transpose of a convolution that maps `x` to `y`."""
    stride, padding, dilation, transposed, _, groups = args
    output_padding = [0, 0]
    if not transposed:
        # The rows and columns of x behind the last full stride.
        for axis in range(2):
            reach = dilation[axis] * (w.shape[2 + axis] - 1) + 1
            full = (y.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis] + reach
            output_padding[axis] = x.shape[2 + axis] - full
    return stride, padding, dilation, not transposed, output_padding, groups
