"""The definition of `conv2d_resample` in plain PyTorch: five steps, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ops.upfirdn2d.plain import fir_downsample_padding, fir_padding, fir_upsample_padding
from ops.upfirdn2d.reference import upfirdn2d


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
    """Up, FIR, conv, FIR, down; see `ops.conv2d_resample.conv2d_resample`. `impl` is ignored."""
    pad = fir_padding(padding)
    if up > 1:
        pad = fir_upsample_padding(f, up, pad)
    if down > 1:
        pad = fir_downsample_padding(f, down, pad)
    f_up = f if up > 1 else None
    x = upfirdn2d(x, f_up, up=up, padding=pad, flip_filter=flip_filter, gain=up**2)
    x = F.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    if down > 1:
        x = upfirdn2d(x, f, down=down, flip_filter=flip_filter)
    return x
