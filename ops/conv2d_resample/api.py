"""The definition of `conv2d_resample` in plain PyTorch."""

from __future__ import annotations

import torch

from ops.conv2d import conv2d
from ops.upfirdn2d import upfirdn2d
from ops.upfirdn2d.plain import fir_padding, fir_size


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | list[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """Up, FIR, conv, FIR, down; see `ops.conv2d_resample.conv2d_resample`."""
    x0, x1, y0, y1 = fir_padding(padding)
    fw, fh = fir_size(f)
    if up > 1:
        x0, x1 = x0 + (fw + up - 1) // 2, x1 + (fw - up) // 2
        y0, y1 = y0 + (fh + up - 1) // 2, y1 + (fh - up) // 2
    if down > 1:
        x0, x1 = x0 + (fw - down + 1) // 2, x1 + (fw - down) // 2
        y0, y1 = y0 + (fh - down + 1) // 2, y1 + (fh - down) // 2
    pad = [x0, x1, y0, y1]
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=pad, gain=up**2, flip_filter=flip_filter)
    x = conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    if down > 1:
        x = upfirdn2d(x, f, down=down, flip_filter=flip_filter)
    return x
