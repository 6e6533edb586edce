"""The definition of `upfirdn2d` in plain PyTorch: short, slow, differentiable to any order.

`plain.py` holds the fast version that runs where there is no kernel, and everything around it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ops.upfirdn2d.plain import fir_padding, fir_scaling


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
    n, c, h, w = x.shape
    if f is None:
        f = torch.ones([1, 1], dtype=torch.float32, device=x.device)
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up_x - 1, 0, 0, 0, up_y - 1])
    x = F.pad(x.reshape(n, c, h * up_y, w * up_x), fir_padding(padding))
    f = f.to(torch.promote_types(f.dtype, x.dtype)) * gain ** (f.ndim / 2)
    f = f.to(x.dtype)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    for kernel in [f] if f.ndim == 2 else [f[None, :], f[:, None]]:
        x = F.conv2d(x, kernel.expand(c, 1, -1, -1), groups=c)
    return x[:, :, ::down_y, ::down_x]
