"""The definition of `upfirdn2d` in plain PyTorch (portable: runs from the source in a snapshot)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def fir_scaling(scaling: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    """An up- or down-sampling factor as (x, y)."""
    pair = (scaling, scaling) if isinstance(scaling, int) else tuple(scaling)
    if len(pair) != 2 or any(int(factor) != factor or factor < 1 for factor in pair):
        raise ValueError(f"a scaling factor must be an int >= 1 or [x, y], got {scaling}")
    return int(pair[0]), int(pair[1])


def fir_padding(padding: int | list[int] | tuple[int, ...]) -> tuple[int, int, int, int]:
    """Padding as (x0, x1, y0, y1): before and after along x, then along y; negative crops."""
    sides = (padding, padding) if isinstance(padding, int) else tuple(padding)
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    if len(sides) != 4 or any(int(side) != side for side in sides):
        raise ValueError(f"padding must be an int, [x, y] or [x0, x1, y0, y1], got {padding}")
    return int(sides[0]), int(sides[1]), int(sides[2]), int(sides[3])


def fir_size(f: torch.Tensor | None) -> tuple[int, int]:
    """(width, height) of a filter; None is a single tap."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def setup_filter(
    f,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepares a filter for `upfirdn2d`; see `ops.upfirdn2d.setup_filter`."""
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32).detach().clone()
    if f.ndim > 2 or f.numel() == 0:
        raise ValueError(f"a filter has one or two dimensions and a tap, got {list(f.shape)}")
    if f.ndim == 0:
        f = f[None]
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if f.ndim == 1 and not separable:
        f = torch.outer(f, f)
    if separable and f.ndim == 2:
        raise ValueError(f"a separable filter has one dimension, got {list(f.shape)}")
    if normalize:
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device=device)


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | list[int] = 1,
    down: int | list[int] = 1,
    padding: int | list[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Zero-insert, pad, convolve, decimate; see `ops.upfirdn2d.upfirdn2d`. `impl` is ignored."""
    up_x, up_y = fir_scaling(up)
    down_x, down_y = fir_scaling(down)
    x0, x1, y0, y1 = fir_padding(padding)
    n, c, h, w = x.shape
    if f is None:
        f = torch.ones([1, 1], dtype=torch.float32, device=x.device)
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up_x - 1, 0, 0, 0, up_y - 1])
    x = F.pad(x.reshape(n, c, h * up_y, w * up_x), [x0, x1, y0, y1])
    f = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    kernels = [f] if f.ndim == 2 else [f[None, :], f[:, None]]
    for kernel in kernels:
        x = F.conv2d(x, kernel.expand(c, 1, -1, -1), groups=c)
    return x[:, :, ::down_y, ::down_x]


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: int | list[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """FIR filter at constant size; see `ops.upfirdn2d.filter2d`."""
    x0, x1, y0, y1 = fir_padding(padding)
    fw, fh = fir_size(f)
    pad = [x0 + fw // 2, x1 + (fw - 1) // 2, y0 + fh // 2, y1 + (fh - 1) // 2]
    return upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | list[int] = 2,
    padding: int | list[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """FIR up-sampling; see `ops.upfirdn2d.upsample2d`."""
    up_x, up_y = fir_scaling(up)
    x0, x1, y0, y1 = fir_padding(padding)
    fw, fh = fir_size(f)
    pad = [
        x0 + (fw + up_x - 1) // 2,
        x1 + (fw - up_x) // 2,
        y0 + (fh + up_y - 1) // 2,
        y1 + (fh - up_y) // 2,
    ]
    gain = gain * up_x * up_y
    return upfirdn2d(x, f, up=up, padding=pad, flip_filter=flip_filter, gain=gain, impl=impl)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: int | list[int] = 2,
    padding: int | list[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """FIR down-sampling; see `ops.upfirdn2d.downsample2d`."""
    down_x, down_y = fir_scaling(down)
    x0, x1, y0, y1 = fir_padding(padding)
    fw, fh = fir_size(f)
    pad = [
        x0 + (fw - down_x + 1) // 2,
        x1 + (fw - down_x) // 2,
        y0 + (fh - down_y + 1) // 2,
        y1 + (fh - down_y) // 2,
    ]
    return upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter, gain=gain, impl=impl)
