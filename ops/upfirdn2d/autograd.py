"""`upfirdn2d` with its compiled kernels, and its derivatives of any order.

The map is linear, and its transpose is of the same kind (see `plain.py`): up and down exchanged,
the filter reversed, `taps - 1 - pad` in place of the padding before the image. Every order of
gradient in x is therefore the Function itself; the filter gets none.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch

from ops import _dispatch
from ops.upfirdn2d import plain

MAX_TAPS = 24
"""Taps along an axis that the CUDA kernel takes."""


@dataclass(frozen=True)
class FirOptions:
    """What is not a tensor; pairs are (x, y).

    Attributes:
        impl: "cpp" or "cuda".
        up, down: Factors.
        pad: Zeros before the up-sampled image; negative crops.
        size: Pixels of the result.
        flip: Correlation with f instead of convolution.
        gain: Factor of the result.
    """

    impl: str
    up: tuple[int, int]
    down: tuple[int, int]
    pad: tuple[int, int]
    size: tuple[int, int]
    flip: bool
    gain: float

    def transposed(self, size: tuple[int, int], taps: tuple[int, int]) -> FirOptions:
        """The transpose of a map from images of `size`, with `taps` taps per axis."""
        pad = taps[0] - 1 - self.pad[0], taps[1] - 1 - self.pad[1]
        return replace(self, up=self.down, down=self.up, pad=pad, size=size, flip=not self.flip)


class Fir(torch.autograd.Function):
    """Orders of gradient: 1st, 2nd and higher in x are this Function; f gets none."""

    @staticmethod
    def forward(ctx, x, f, options):
        ctx.options = options.transposed((x.shape[3], x.shape[2]), plain.fir_size(f))
        ctx.save_for_backward(f)
        return filtered(x, f, options)

    @staticmethod
    def backward(ctx, grad_y):
        (f,) = ctx.saved_tensors
        return Fir.apply(grad_y, f, ctx.options), None, None


def filtered(x: torch.Tensor, f: torch.Tensor, options: FirOptions) -> torch.Tensor:
    """The map itself, without derivatives.

    Args:
        x: [N, C, H, W].
        f: [fh, fw], or [taps] for both axes.
        options: See FirOptions.

    Returns:
        [N, C, size[1], size[0]], in the memory format of `x` on CUDA.
    """
    library = _dispatch.kernel_module("upfirdn2d", options.impl)
    if library.has("upfirdn2d_separable"):
        vertical, horizontal = separated(f)
        x = x if x.stride(3) == 1 else x.contiguous()
        taps = _joined(vertical, horizontal)
        shape = len(vertical), len(horizontal)
        return _launch(library, "upfirdn2d_separable", x, taps, shape, options)
    f = f.to(torch.float32).contiguous()
    if f.ndim == 2:
        return _launch(library, "upfirdn2d_dense", x, f, f.shape, options)
    # Two passes of one axis each: 2 taps products per pixel instead of taps squared.
    across = replace(
        options,
        up=(options.up[0], 1),
        down=(options.down[0], 1),
        pad=(options.pad[0], 0),
        size=(options.size[0], x.shape[2]),
    )
    x = _launch(library, "upfirdn2d_dense", x, f, (1, f.shape[0]), across)
    along = replace(
        options, up=(1, options.up[1]), down=(1, options.down[1]), pad=(0, options.pad[1]), gain=1.0
    )
    return _launch(library, "upfirdn2d_dense", x, f, (f.shape[0], 1), along)


def separated(f: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(vertical, horizontal) taps whose outer product the filter is; None if there are none."""
    factors = plain._fir_factors((tuple(f.flatten().tolist()), f.shape[-1], f.ndim))
    return None if factors is None else tuple(tuple(taps.tolist()) for taps in factors)


@functools.lru_cache(maxsize=64)
def _joined(vertical: tuple[float, ...], horizontal: tuple[float, ...]) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(np.array(vertical + horizontal, dtype=np.float64))


def _launch(library, name, x, f, taps, options):
    n, c, h, w = x.shape
    width, height = options.size
    # Channels fastest, where the input has them so and more than one.
    last = c > 1 and x.stride(1) == 1 and name == "upfirdn2d_dense"
    layout = torch.channels_last if last else torch.contiguous_format
    y = torch.empty([n, c, height, width], dtype=x.dtype, device=x.device, memory_format=layout)
    strides = {
        f"{prefix}_stride_{axis}": stride
        for prefix, tensor in (("x", x), ("y", y))
        for axis, stride in zip("nchw", tensor.stride())
    }
    library.call(
        name,
        x=x,
        f=f,
        y=y,
        dtype=x.dtype,
        n=n,
        c=c,
        in_h=h,
        in_w=w,
        out_h=height,
        out_w=width,
        **strides,
        fh=taps[0],
        fw=taps[1],
        up_x=options.up[0],
        up_y=options.up[1],
        down_x=options.down[0],
        down_y=options.down[1],
        pad_x=options.pad[0],
        pad_y=options.pad[1],
        flip=int(options.flip),
        gain=options.gain,
    )
    return y
