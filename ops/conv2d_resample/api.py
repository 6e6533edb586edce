"""Public face of the op `conv2d_resample`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ops._dispatch import choose
from ops.conv2d_resample import plain, reference


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
    """2-D convolution with filtered up- and down-sampling: up, FIR, conv, FIR, down.

    All padding happens once, at the start, on the zero-inserted image: `padding` plus what
    `upsample2d` and `downsample2d` add. The first FIR has gain up^2.

    Args:
        x: [N, C, H, W], floating point.
        w: [O, C / groups, kh, kw], dtype of `x`.
        f: Filter from `setup_filter`, float32; None = a single tap of 1.
        up: Integer up-sampling factor.
        down: Integer down-sampling factor.
        padding: Of the up-sampled image, int, [x, y] or [x0, x1, y0, y1]; negative crops.
            kernel // 2 keeps the size.
        groups: Number of groups that the channels are split into.
        flip_weight: True = correlation (PyTorch's convention), False = true convolution.
        flip_filter: False = true convolution with `f`, True = correlation.
        impl: "auto" | "ref" | "cuda" | "cpp", see `ops._dispatch.choose`.

    Returns:
        [N, O, H', W'], dtype of `x`; H' = H * up / down for a padding that keeps the size.

    Raises:
        ValueError: Wrong shapes or factors.
        TypeError: `w` has another dtype than `x`.

    Orders of gradient: x and w: 1st, 2nd and higher composed of convolutions and `upfirdn2d`;
    f: unsupported (raises).
    """
    if x.ndim != 4:
        raise ValueError(f"conv2d_resample: x must be [N, C, H, W], got {list(x.shape)}")
    if w.ndim != 4 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups:
        raise ValueError(
            f"conv2d_resample: w must be [O, {x.shape[1]} / groups, kh, kw] with O divisible by "
            f"groups={groups}, got {list(w.shape)}"
        )
    if w.dtype != x.dtype:
        raise TypeError(f"conv2d_resample: w must have the dtype of x, {x.dtype}, got {w.dtype}")
    for name, factor in (("up", up), ("down", down)):
        if not isinstance(factor, int) or factor < 1:
            raise ValueError(f"conv2d_resample: {name} must be an int >= 1, got {factor!r}")
    choose("conv2d_resample", (x, w), impl)
    module = reference if impl == "ref" else plain
    return module.conv2d_resample(
        x, w, f, up, down, padding, groups, flip_weight, flip_filter, impl
    )
