"""`conv2d_resample` in plain PyTorch, in the cheapest order (portable: runs from a snapshot).

Filters, convolutions and zero padding are linear and shift-invariant, so they commute; what is
skipped or zero is not computed:

    1x1, down     filter and decimate, then convolve
    1x1, up       convolve, then zero-insert and filter
    larger, down  filter, then convolve with a stride
    larger, up    transposed convolution, then filter
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ops.conv2d import conv2d, conv_transpose2d
from ops.upfirdn2d import upfirdn2d
from ops.upfirdn2d.plain import fir_downsample_padding, fir_padding, fir_upsample_padding


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """Up, FIR, conv, FIR, down; see `ops.conv2d_resample.conv2d_resample`."""
    pad = fir_padding(padding)
    if up > 1:
        pad = fir_upsample_padding(f, up, pad)
    if down > 1:
        pad = fir_downsample_padding(f, down, pad)
    pointwise = w.shape[2] == w.shape[3] == 1
    fir = {"flip_filter": flip_filter, "impl": impl}
    if up == 1 and down == 1:
        return _resample_conv(x, w, 1, pad, groups, flip_weight)
    if up == 1 and pointwise:
        return conv2d(upfirdn2d(x, f, down=down, padding=pad, **fir), w, groups=groups)
    if up == 1:
        x = upfirdn2d(x, f, padding=pad, **fir)
        return _resample_conv(x, w, down, (0, 0, 0, 0), groups, flip_weight)
    if pointwise:
        x = conv2d(x, w, groups=groups)
        x = upfirdn2d(x, f, up=up, padding=pad, gain=up**2, **fir)
    else:
        x = _resample_conv_transpose(x, w, up, groups, flip_weight)
        # The result is larger by kernel - 1 at both sides, without the last up - 1 zeros.
        kh, kw = w.shape[2:]
        x0, x1, y0, y1 = pad
        pad = x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up
        x = upfirdn2d(x, f, padding=pad, gain=up**2, **fir)
    return upfirdn2d(x, f, down=down, **fir) if down > 1 else x


def _resample_conv(x, w, stride, padding, groups, flip_weight):
    """Correlation (flip_weight) or convolution with any padding (x0, x1, y0, y1)."""
    w = w if flip_weight else w.flip([2, 3])
    x0, x1, y0, y1 = padding
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return conv2d(x, w, stride=stride, padding=(y0, x0), groups=groups)
    return conv2d(F.pad(x, padding), w, stride=stride, groups=groups)


def _resample_conv_transpose(x, w, up, groups, flip_weight):
    """The full convolution of the zero-inserted image: kernel - 1 larger than it at both sides."""
    out_channels, in_channels, kh, kw = w.shape
    w = w.flip([2, 3]) if flip_weight else w
    if groups == 1:
        w = w.transpose(0, 1)
    else:
        w = w.reshape(groups, out_channels // groups, in_channels, kh, kw).transpose(1, 2)
        w = w.reshape(groups * in_channels, out_channels // groups, kh, kw)
    return conv_transpose2d(x, w, stride=up, groups=groups)
