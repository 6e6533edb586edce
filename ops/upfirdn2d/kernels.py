"""The map of `upfirdn2d` as one operator: the kernels, or the plain version where that is faster.

They are declared in `upfirdn2d.h`. Nothing here is differentiable, see `autograd.py` for that.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ops import _dispatch
from ops._native import native_op
from ops.upfirdn2d import plain

MAX_TAPS = 24
"""Taps along an axis that the CUDA kernel takes."""

_CPU_MIN_SIZE, _CPU_MIN_SIZE_UP = 24, 16
"""Longer side from which on the compiled CPU kernel is faster than `plain.py`: in general, and with
up-sampling."""


class FirOptions(NamedTuple):
    """What is not a tensor; pairs are (x, y).

    Attributes:
        up, down: Factors.
        pad: Zeros before the up-sampled image; negative crops.
        size: Pixels of the result, > 0.
        flip: Correlation with f instead of convolution.
        gain: Factor of the result.
        impl: "cpp" or "cuda", as `ops._dispatch.choose` says. "ref": the plain version, which reads
            the taps, so that a compiler of whole graphs cannot look through it.
        always: Even where the plain version is faster, which runs else, and where the kernel does
            not take the call.
    """

    up: Sequence[int]
    down: Sequence[int]
    pad: Sequence[int]
    size: Sequence[int]
    flip: bool
    gain: float
    impl: str
    always: bool

    def transposed(self, size: tuple[int, int], taps: tuple[int, int]) -> FirOptions:
        """The transpose of a map from images of `size`, with `taps` taps per axis."""
        pad = taps[0] - 1 - self.pad[0], taps[1] - 1 - self.pad[1]
        return FirOptions(
            self.down, self.up, pad, size, not self.flip, self.gain, self.impl, self.always
        )


def worthwhile(x: Tensor, f: Tensor, options: FirOptions) -> bool:
    """Whether the kernel takes a call and, unless it always runs, is faster than `plain.py`.

    Args:
        x: [N, C, H, W].
        f: [fh, fw], or [taps] for both axes.
        options: impl "cpp" or "cuda".
    """
    if not _separable_only(options.impl):
        return max(f.shape) <= MAX_TAPS
    if not options.always and not _is_faster(x, f, options):
        return False
    both = any(a > 1 and b > 1 for a, b in zip(options.up, options.down))
    return not both and separated(f) is not None


def _is_faster(x: Tensor, f: Tensor, options: FirOptions) -> bool:
    """On the CPU, by measurements: small images are faster as one matrix product."""
    h, w = x.shape[2:]
    width, height = options.size
    longest = max(h, w, width, height)
    if max(options.up) > 1:
        return longest >= _CPU_MIN_SIZE_UP
    # Four taps have a way of their own; the product is that of all input with all output pixels.
    short = max(options.down) <= 2 and f.shape[0] == f.shape[-1] == 4
    return h * w * height * width > 4096 if short else longest >= _CPU_MIN_SIZE


def _fake_filtered(x, f, up, down, pad, size, flip, gain, impl, always):
    layout = _memory_format(x, impl != "ref" and not _separable_only(impl))
    return _new_result(x, size, layout)


@native_op("upfirdn2d", _fake_filtered)
def filtered(
    x: Tensor,  # [N, C, H, W]
    f: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    pad: Sequence[int],
    size: Sequence[int],
    flip: bool,
    gain: float,
    impl: str,
    always: bool,
) -> Tensor:  # [N, C, size[1], size[0]]
    """The map itself.

    Args:
        x: Images, not empty.
        f: [fh, fw], or [taps] for both axes.
        up, down, pad, size, flip, gain, impl, always: See FirOptions.

    Returns:
        Contiguous, or on CUDA in the memory format of `x`.
    """
    options = FirOptions(up, down, pad, size, flip, gain, impl, always)
    if impl == "ref" or not worthwhile(x, f, options):
        return _plain(x, f, options)
    if _separable_only(impl):
        taps, shape = separated(f)
        x = x if x.stride(3) == 1 else x.contiguous()
        return _launch("upfirdn2d_separable", x, taps, shape, options)
    f = f.to(torch.float32).contiguous()
    if f.ndim == 2:
        return _launch("upfirdn2d_dense", x, f, f.shape, options)
    # Two passes of one axis each: 2 taps products per pixel instead of taps squared.
    across = options._replace(
        up=(up[0], 1), down=(down[0], 1), pad=(pad[0], 0), size=(size[0], x.shape[2])
    )
    along = options._replace(up=(1, up[1]), down=(1, down[1]), pad=(0, pad[1]), gain=1.0)
    x = _launch("upfirdn2d_dense", x, f, (1, f.shape[0]), across)
    return _launch("upfirdn2d_dense", x, f, (f.shape[0], 1), along)


def _separable_only(impl: str) -> bool:
    """Whether this library is the CPU's."""
    return _dispatch.kernel_module("upfirdn2d", impl).has("upfirdn2d_separable")


def _plain(x: Tensor, f: Tensor, options: FirOptions) -> Tensor:
    ends = [
        (size - 1) * down + taps - pixels * up - pad
        for size, down, taps, pixels, up, pad in zip(
            options.size, options.down, plain.fir_size(f), x.shape[:1:-1], options.up, options.pad
        )
    ]
    padding = options.pad[0], ends[0], options.pad[1], ends[1]
    y = plain.upfirdn2d(x, f, options.up, options.down, padding, options.flip, options.gain)
    layout = _memory_format(x, options.impl != "ref" and not _separable_only(options.impl))
    return y.contiguous(memory_format=layout)


def separated(f: Tensor) -> tuple[Tensor, tuple[int, int]] | None:
    """(vertical, then horizontal taps, how many of each), whose outer product the filter is."""
    return _factors(tuple(f.flatten().tolist()), f.shape[-1], f.ndim)


@functools.lru_cache(maxsize=64)
def _factors(
    values: tuple[float, ...], width: int, ndim: int
) -> tuple[Tensor, tuple[int, int]] | None:
    factors = plain._fir_factors((values, width, ndim))
    if factors is None:
        return None
    with torch.inference_mode(False):
        taps = torch.from_numpy(np.concatenate(factors).astype(np.float64))
    return taps, (len(factors[0]), len(factors[1]))


def _memory_format(x: Tensor, channels_last: bool) -> torch.memory_format:
    """Channels fastest where that is known to a kernel and x has them so, and more than one."""
    last = channels_last and x.shape[1] > 1 and x.stride(1) == 1
    return torch.channels_last if last else torch.contiguous_format


def _new_result(x: Tensor, size: Sequence[int], layout: torch.memory_format) -> Tensor:
    shape = [x.shape[0], x.shape[1], size[1], size[0]]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _launch(name: str, x: Tensor, f: Tensor, taps: Sequence[int], options: FirOptions) -> Tensor:
    y = _new_result(x, options.size, _memory_format(x, name == "upfirdn2d_dense"))
    n, c, h, w = x.shape
    x_strides, y_strides = x.stride(), y.stride()
    _dispatch.kernel_module("upfirdn2d", options.impl).call(
        name,
        x=x,
        f=f,
        y=y,
        dtype=x.dtype,
        n=n,
        c=c,
        in_h=h,
        in_w=w,
        out_h=y.shape[2],
        out_w=y.shape[3],
        x_stride_n=x_strides[0],
        x_stride_c=x_strides[1],
        x_stride_h=x_strides[2],
        x_stride_w=x_strides[3],
        y_stride_n=y_strides[0],
        y_stride_c=y_strides[1],
        y_stride_h=y_strides[2],
        y_stride_w=y_strides[3],
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
