"""Derivatives of bilinear sampling with respect to the image, of any order.

Sampling is linear in the image, so its derivative is the transposed map and the derivative of that
is sampling again. Older PyTorch versions cannot differentiate the transposed map themselves.
"""

from __future__ import annotations

import torch

from ops.grid_sample import reference

_BILINEAR, _ZEROS, _ALIGN_CORNERS = 0, 0, False


class GridSample(torch.autograd.Function):
    """1st order: `GridSampleTransposed`. For grids that need no gradient."""

    @staticmethod
    def forward(ctx, input, grid):
        ctx.save_for_backward(input, grid)
        return reference.grid_sample(input, grid)

    @staticmethod
    def backward(ctx, grad_output):
        input, grid = ctx.saved_tensors
        return GridSampleTransposed.apply(grad_output, input.detach(), grid), None


class GridSampleTransposed(torch.autograd.Function):
    """Its derivative with respect to `grad_output` is `GridSample`; `input` only gives a shape."""

    @staticmethod
    def forward(ctx, grad_output, input, grid):
        ctx.save_for_backward(grid)
        args = _BILINEAR, _ZEROS, _ALIGN_CORNERS, [True, False]
        return torch.ops.aten.grid_sampler_2d_backward(grad_output, input, grid, *args)[0]

    @staticmethod
    def backward(ctx, grad_grad_input):
        (grid,) = ctx.saved_tensors
        return GridSample.apply(grad_grad_input, grid), None, None
