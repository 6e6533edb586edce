"""`upfirdn2d` in plain PyTorch, fast on a CPU (portable: runs from the source in a snapshot).

The same linear map as in `reference.py`, computed in the cheapest of three ways. Derivatives of any
order with respect to x are again up-FIR-down operations, because the transpose of

    y[o] = sum_t k[t] * u[o * down + t - p0],  u[i * up] = x[i], else 0

is the same expression with up and down swapped, k reversed and other padding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def fir_scaling(scaling: int | Sequence[int]) -> tuple[int, int]:
    """An up- or down-sampling factor as (x, y)."""
    pair = (scaling, scaling) if isinstance(scaling, int) else tuple(scaling)
    if len(pair) != 2 or any(int(factor) != factor or factor < 1 for factor in pair):
        raise ValueError(f"a scaling factor must be an int >= 1 or [x, y], got {scaling!r}")
    return int(pair[0]), int(pair[1])


def fir_padding(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Padding as (x0, x1, y0, y1): before and after along x, then along y; negative crops."""
    sides = (padding, padding) if isinstance(padding, int) else tuple(padding)
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    if len(sides) != 4 or any(int(side) != side for side in sides):
        raise ValueError(f"padding must be an int, [x, y] or [x0, x1, y0, y1], got {padding!r}")
    return int(sides[0]), int(sides[1]), int(sides[2]), int(sides[3])


def fir_size(f: torch.Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter; None is a single tap."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def fir_upsample_padding(
    f: torch.Tensor | None, up: int | Sequence[int], padding: int | Sequence[int]
) -> tuple[int, int, int, int]:
    """`padding` plus what makes up-sampling by `up` with filter `f` return size * up."""
    (up_x, up_y), (fw, fh) = fir_scaling(up), fir_size(f)
    x0, x1, y0, y1 = fir_padding(padding)
    x0, x1 = x0 + (fw + up_x - 1) // 2, x1 + (fw - up_x) // 2
    return x0, x1, y0 + (fh + up_y - 1) // 2, y1 + (fh - up_y) // 2


def fir_downsample_padding(
    f: torch.Tensor | None, down: int | Sequence[int], padding: int | Sequence[int]
) -> tuple[int, int, int, int]:
    """`padding` plus what makes down-sampling by `down` with filter `f` return size / down."""
    (down_x, down_y), (fw, fh) = fir_scaling(down), fir_size(f)
    x0, x1, y0, y1 = fir_padding(padding)
    x0, x1 = x0 + (fw - down_x + 1) // 2, x1 + (fw - down_x) // 2
    return x0, x1, y0 + (fh - down_y + 1) // 2, y1 + (fh - down_y) // 2


def setup_filter(
    f: torch.Tensor | np.ndarray | Sequence | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepares a filter for `upfirdn2d`.

    Args:
        f: Taps, 1-D or 2-D [height, width]; a scalar or None (= 1) is 1-D with one tap. Not
            modified.
        device: Where the result lives.
        normalize: Divide by the sum of the taps.
        flip_filter: Reverse the taps along every axis.
        gain: Gain of the filter on a constant image, in both axes together.
        separable: Keep a 1-D filter 1-D (applied along both axes) instead of its outer product.
            None = from 8 taps on.

    Returns:
        float32, [height, width] or [taps] (separable).

    Raises:
        ValueError: `f` is empty, has more than two dimensions, or is 2-D with separable=True.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32).detach()
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"a filter is a number, 1-D or 2-D and not empty, got {list(taps.shape)}")
    taps = taps.reshape(1) if taps.ndim == 0 else taps
    if separable and taps.ndim == 2:
        raise ValueError(f"separable=True needs a 1-D filter, got {list(taps.shape)}")
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= 8
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return (taps * gain ** (taps.ndim / 2)).to(device=device)


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Zero-insert, pad, convolve, decimate; see `ops.upfirdn2d.upfirdn2d`. `impl` is ignored."""
    if f is None:
        f = torch.ones([1, 1], dtype=torch.float32, device=x.device)
    args = fir_scaling(up), fir_scaling(down), fir_padding(padding), bool(flip_filter), float(gain)
    if torch.is_grad_enabled() and x.requires_grad:
        return _FirFunction.apply(x, f, *args)
    return _fir_apply(x, f, *args)


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """FIR filter at constant size; see `ops.upfirdn2d.filter2d`. `impl` is ignored."""
    pad = fir_upsample_padding(f, 1, padding)
    return upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """FIR up-sampling; see `ops.upfirdn2d.upsample2d`. `impl` is ignored."""
    up_x, up_y = fir_scaling(up)
    pad = fir_upsample_padding(f, up, padding)
    return upfirdn2d(x, f, up=up, padding=pad, flip_filter=flip_filter, gain=gain * up_x * up_y)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """FIR down-sampling; see `ops.upfirdn2d.downsample2d`. `impl` is ignored."""
    pad = fir_downsample_padding(f, down, padding)
    return upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter, gain=gain)


class _FirFunction(torch.autograd.Function):
    """Orders of gradient: 1st, 2nd and higher in x composed of this Function; f gets none.

    PyTorch's own derivative of a depth-wise convolution is right too, but its second order takes
    several times as long on a CPU, because it prepares for a gradient of the filter.
    """

    @staticmethod
    def forward(ctx, x, f, up, down, padding, flip_filter, gain):
        y = _fir_apply(x, f, up, down, padding, flip_filter, gain)
        ctx.save_for_backward(f)
        ctx.args = up, down, padding, flip_filter, gain, x.shape[2:], y.shape[2:]
        return y

    @staticmethod
    def backward(ctx, grad_y):
        (f,) = ctx.saved_tensors
        up, down, (x0, _, y0, _), flip_filter, gain, (h, w), (out_h, out_w) = ctx.args
        fw, fh = fir_size(f)
        padding = (
            fw - 1 - x0,
            (w - 1) * up[0] - out_w * down[0] + x0 + 1,
            fh - 1 - y0,
            (h - 1) * up[1] - out_h * down[1] + y0 + 1,
        )
        args = down, up, padding, not flip_filter, gain
        return _FirFunction.apply(grad_y, f, *args), None, None, None, None, None, None


def _fir_apply(x, f, up, down, padding, flip_filter, gain):
    """The linear map itself, without derivatives; arguments normalised."""
    n, c, h, w = x.shape
    fw, fh = fir_size(f)
    x0, x1, y0, y1 = padding
    out_w = (w * up[0] + x0 + x1 - fw) // down[0] + 1
    out_h = (h * up[1] + y0 + y1 - fh) // down[1] + 1
    if min(out_w, out_h) < 1:
        raise ValueError(
            f"upfirdn2d: nothing left of {h}x{w} pixels (height x width) for a {fh}x{fw} filter, "
            f"up={up}, down={down}, padding={padding}"
        )
    method = "depthwise"
    if x.device.type == f.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        taps = tuple(f.flatten().tolist()), fw, f.ndim
        method = _fir_method(taps, c, (h, w, out_h, out_w), up)
    if method == "depthwise":
        return _fir_depthwise(x, f, up, down, padding, flip_filter, gain)
    axis_x = up[0], down[0], x0, w, out_w
    axis_y = up[1], down[1], y0, h, out_h
    if method == "dense":
        matrix = _fir_dense_matrix(taps, axis_x, axis_y, flip_filter, gain, x.dtype)
        return torch.mm(x.reshape(n * c, h * w), matrix).view(n, c, out_h, out_w)
    across, along = _fir_band_matrices(taps, axis_x, axis_y, flip_filter, gain, x.dtype)
    if out_h * h * w + out_h * w * out_w < h * w * out_w + out_h * h * out_w:
        return torch.matmul(torch.matmul(along, x), across)
    return torch.matmul(along, torch.matmul(x, across))


def _fir_method(taps, channels, sizes, up):
    """The fastest of three ways, from measurements in float32 on one core of an AVX-512 CPU.

    dense: one matrix from all input to all output pixels; smallest images (ratio to the others 0.1
        to 0.7).
    matmul: one banded matrix per axis. Its zeros are multiplied too, but a matrix product is so
        much faster per product that it wins for up-sampling (0.3 to 0.8, up to 256 pixels), for
        long filters and for few channels (0.3 to 0.5, up to 128 pixels).
    depthwise: one convolution per channel; the rest, and filters that are not separable.
    """
    if _fir_factors(taps) is None:
        return "depthwise"
    h, w, out_h, out_w = sizes
    if h * w * out_h * out_w <= 4096:
        return "dense"
    largest = max(sizes)
    if up != (1, 1):
        return "matmul" if largest <= 256 else "depthwise"
    long = max(taps[1], len(taps[0]) // taps[1]) >= 8
    return "matmul" if (long or channels < 16) and largest <= 128 else "depthwise"


def _fir_depthwise(x, f, up, down, padding, flip_filter, gain):
    """A depth-wise convolution with stride, or a transposed one for up-sampling."""
    f = f.to(torch.promote_types(f.dtype, x.dtype)) * gain ** (f.ndim / 2)
    f = f.to(x.dtype)
    if f.ndim == 1:
        x = _fir_conv(x, f[None, :], up[0], 1, down[0], 1, (*padding[:2], 0, 0), flip_filter)
        return _fir_conv(x, f[:, None], 1, up[1], 1, down[1], (0, 0, *padding[2:]), flip_filter)
    return _fir_conv(x, f, *up, *down, padding, flip_filter)


def _fir_conv(x, f, up_x, up_y, down_x, down_y, padding, flip_filter):
    c = x.shape[1]
    x0, x1, y0, y1 = padding
    fh, fw = f.shape
    if up_x == up_y == 1:
        f = f if flip_filter else f.flip([0, 1])
        inside = (y0, x0)
        if x0 != x1 or y0 != y1 or min(x0, y0) < 0:
            x, inside = F.pad(x, padding), 0
        kernel = f.expand(c, 1, fh, fw)
        return F.conv2d(x, kernel, stride=(down_y, down_x), padding=inside, groups=c)
    # conv_transpose2d is a true convolution of the zero-inserted image, without zeros at its end.
    f = f.flip([0, 1]) if flip_filter else f
    out_w = x.shape[3] * up_x + x0 + x1 - fw + 1
    out_h = x.shape[2] * up_y + y0 + y1 - fh + 1
    y = F.conv_transpose2d(x, f.expand(c, 1, fh, fw), stride=(up_y, up_x), groups=c)
    skip_x, skip_y = fw - 1 - x0, fh - 1 - y0
    crop = [-skip_x, out_w - y.shape[3] + skip_x, -skip_y, out_h - y.shape[2] + skip_y]
    if any(crop):
        y = F.pad(y, crop)
    return y[:, :, ::down_y, ::down_x]


def _fir_axis_matrix(taps, axis, flip_filter):
    """float64 [out, in]: the map along one axis; `taps` a 1-D array."""
    up, down, pad, size, out_size = axis
    taps = taps if flip_filter else taps[::-1]
    index = np.arange(size)[None, :] * up - np.arange(out_size)[:, None] * down + pad
    inside = (index >= 0) & (index < len(taps))
    return np.where(inside, taps[index.clip(0, len(taps) - 1)], 0.0)


@functools.lru_cache(maxsize=64)
def _fir_factors(taps):
    """(vertical, horizontal) 1-D filters whose outer product the filter is, or None."""
    values, width, ndim = taps
    if ndim == 1:
        return np.array(values), np.array(values)
    f = np.array(values).reshape(-1, width)
    row, column = np.unravel_index(np.abs(f).argmax(), f.shape)
    if f[row, column] == 0:
        return f[:, 0], f[0]
    vertical, horizontal = f[:, column], f[row] / f[row, column]
    # Products of float32 taps were rounded once: half a unit in the last place.
    error = np.abs(np.outer(vertical, horizontal) - f).max()
    return (vertical, horizontal) if error <= 2.0**-22 * abs(f[row, column]) else None


@functools.lru_cache(maxsize=128)
def _fir_band_matrices(taps, axis_x, axis_y, flip_filter, gain, dtype):
    """([in_w, out_w], [out_h, in_h]): y = along @ x @ across."""
    vertical, horizontal = _fir_factors(taps)
    across = _fir_axis_matrix(horizontal, axis_x, flip_filter) * gain
    along = _fir_axis_matrix(vertical, axis_y, flip_filter)
    return _fir_tensor(across.T, dtype), _fir_tensor(along, dtype)


@functools.lru_cache(maxsize=128)
def _fir_dense_matrix(taps, axis_x, axis_y, flip_filter, gain, dtype):
    """[in_h * in_w, out_h * out_w]."""
    vertical, horizontal = _fir_factors(taps)
    across = _fir_axis_matrix(horizontal, axis_x, flip_filter) * gain
    along = _fir_axis_matrix(vertical, axis_y, flip_filter)
    return _fir_tensor(np.kron(along, across).T, dtype)


def _fir_tensor(matrix, dtype):
    # A tensor made in inference mode could not be used for training later.
    with torch.inference_mode(False):
        return torch.from_numpy(np.ascontiguousarray(matrix)).to(dtype)
