"""Public face of the op `upfirdn2d`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ops import _dispatch
from ops._native import register_native
from ops.upfirdn2d import autograd, kernels, plain, reference
from ops.upfirdn2d.plain import (
    fir_downsample_padding,
    fir_scaling,
    fir_upsample_padding,
    setup_filter,
)

register_native(
    "upfirdn2d",
    cpu_sources=("upfirdn2d_cpu.cpp",),
    cuda_sources=("upfirdn2d.cu",),
    header="upfirdn2d.h",
    dtypes=(torch.float32, torch.float64),
    cuda_dtypes=(torch.float32, torch.float64, torch.float16, torch.bfloat16),
)

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]


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
    """Up-samples, filters and down-samples images: per axis, with u[i * up] = x[i], else 0,

        y[o] = gain * sum_t f[taps - 1 - t] * u[o * down + t - p0]      (flip_filter: f[t])

    that is: insert up - 1 zeros after each pixel, pad or crop, convolve, keep every down-th.

    Args:
        x: [N, C, H, W], floating point.
        f: Filter from `setup_filter`, float32 on the device of `x`: [fh, fw], or [taps] applied
            along both axes. None = a single tap of 1. Converted to the dtype of `x`.
        up: Up-sampling factor, int or [x, y].
        down: Down-sampling factor, int or [x, y].
        padding: Zeros around the up-sampled image, int, [x, y] or [x0, x1, y0, y1]; negative
            crops.
        flip_filter: False = true convolution, True = correlation.
        gain: Factor on the output.
        impl: "auto" | "ref" | "cuda" | "cpp", see `ops._dispatch.choose`.

    Returns:
        [N, C, (H * up + y0 + y1 - fh) // down + 1, (W * up + x0 + x1 - fw) // down + 1], dtype of
        `x`.

    Raises:
        ValueError: Wrong number of dimensions, scaling or padding, filter on another device, an
            empty result, or a filter that requires gradients.
        TypeError: `x` is not floating point.

    Orders of gradient: x: 1st, 2nd and higher composed of this op; f: unsupported (raises).
    """
    if x.ndim != 4:
        raise ValueError(f"upfirdn2d: x must be [N, C, H, W], got {list(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"upfirdn2d: x must be floating point, got {x.dtype}")
    if f is not None:
        if f.ndim not in (1, 2) or f.numel() == 0:
            raise ValueError(f"upfirdn2d: f must be [fh, fw] or [taps], got {list(f.shape)}")
        if f.device != x.device:
            raise ValueError(f"upfirdn2d: f must be on {x.device} like x, got {f.device}")
        if f.requires_grad:
            raise ValueError("upfirdn2d has no gradient for f; pass f.detach()")
    choice = _dispatch.choose("upfirdn2d", (x,), impl)[0]
    # The plain version looks at the taps, which a compiler of whole graphs must not see.
    compiled = impl != "ref" and torch.compiler.is_compiling()
    if f is None and (compiled or impl == "cpp"):
        f = torch.ones([1, 1], dtype=torch.float32, device=x.device)
    if f is not None and (compiled or choice != "ref"):
        options = _options(x, f, up, down, padding, flip_filter, gain, choice, impl == "cpp")
        if options is not None and (compiled or kernels.worthwhile(x, f, options)):
            return autograd.native_fir(x, f, options)
    if impl == "cpp":
        raise RuntimeError(
            "upfirdn2d: impl='cpp' cannot run: the kernel takes a separable filter, one of up and "
            "down along an axis, and images that are not empty"
        )
    module = reference if impl == "ref" else plain
    return module.upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def _options(
    x: torch.Tensor,
    f: torch.Tensor,
    up: int | Sequence[int],
    down: int | Sequence[int],
    padding: int | Sequence[int],
    flip_filter: bool,
    gain: float,
    impl: str,
    always: bool,
) -> kernels.FirOptions | None:
    """Arguments of the operator; None where nothing is to be computed."""
    up, down = plain.fir_scaling(up), plain.fir_scaling(down)
    x0, x1, y0, y1 = plain.fir_padding(padding)
    fw, fh = plain.fir_size(f)
    width = (x.shape[3] * up[0] + x0 + x1 - fw) // down[0] + 1
    height = (x.shape[2] * up[1] + y0 + y1 - fh) // down[1] + 1
    if min(width, height) < 1 or 0 in x.shape:
        return None
    return kernels.FirOptions(
        up, down, (x0, y0), (width, height), bool(flip_filter), float(gain), impl, always
    )


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Filters images at constant size; see `upfirdn2d` for formula, gradients and errors.

    Args:
        x: [N, C, H, W], floating point.
        f, flip_filter, gain, impl: As for `upfirdn2d`.
        padding: Extra pixels on the output, int, [x, y] or [x0, x1, y0, y1]; negative crops.

    Returns:
        [N, C, H + y0 + y1, W + x0 + x1], dtype of `x`. Of an even filter, tap fw // 2 is centred.
    """
    pad = fir_upsample_padding(f, 1, padding)
    return upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Up-samples images; see `upfirdn2d` for formula, gradients and errors.

    Args:
        x: [N, C, H, W], floating point.
        f, flip_filter, impl: As for `upfirdn2d`.
        up: Factor, int or [x, y].
        padding: Extra pixels on the output, int, [x, y] or [x0, x1, y0, y1]; negative crops.
        gain: Gain on a constant image if `f` sums to 1.

    Returns:
        [N, C, H * up + y0 + y1, W * up + x0 + x1], dtype of `x`.
    """
    up_x, up_y = fir_scaling(up)
    pad = fir_upsample_padding(f, up, padding)
    gain = gain * up_x * up_y
    return upfirdn2d(x, f, up=up, padding=pad, flip_filter=flip_filter, gain=gain, impl=impl)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Down-samples images; see `upfirdn2d` for formula, gradients and errors.

    Args:
        x: [N, C, H, W], floating point.
        f, flip_filter, gain, impl: As for `upfirdn2d`.
        down: Factor, int or [x, y].
        padding: Extra pixels around the input, int, [x, y] or [x0, x1, y0, y1]; negative crops.

    Returns:
        [N, C, H // down, W // down] without padding, dtype of `x`.
    """
    pad = fir_downsample_padding(f, down, padding)
    return upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter, gain=gain, impl=impl)
