"""`upfirdn2d` as one operator, and its derivatives of any order.

The map is linear, and its transpose is of the same kind (see `plain.py`): up and down exchanged,
the filter reversed, `taps - 1 - pad` in place of the padding before the image. Every order of
gradient in x is therefore the Function itself; the filter gets none.
"""

from __future__ import annotations

import torch

from ops.upfirdn2d import kernels, plain
from ops.upfirdn2d.kernels import FirOptions


class Fir(torch.autograd.Function):
    """Orders of gradient: 1st, 2nd and higher in x are this Function; f gets none."""

    @staticmethod
    def forward(ctx, x, f, *options):
        size = x.shape[3], x.shape[2]
        ctx.options = FirOptions(*options).transposed(size, plain.fir_size(f))
        ctx.save_for_backward(f)
        return kernels.filtered(x, f, *options)

    @staticmethod
    def backward(ctx, grad_y):
        (f,) = ctx.saved_tensors
        return native_fir(grad_y, f, ctx.options), None, *[None] * len(ctx.options)


def native_fir(x: torch.Tensor, f: torch.Tensor, options: FirOptions) -> torch.Tensor:
    """The map; recorded only where a gradient is wanted.

    Args:
        x: [N, C, H, W], not empty.
        f: [fh, fw], or [taps] for both axes.
        options: See FirOptions.

    Returns:
        [N, C, size[1], size[0]].
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return Fir.apply(x, f, *options)
    return kernels.filtered(x, f, *options)
