"""Public entry point of `fourier`."""

from __future__ import annotations

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import register_native
from ops.fourier import autograd, plain, reference

register_native(
    "fourier",
    cpu_sources=("fourier_cpu.cpp",),
    cuda_sources=("fourier.cu",),
    cuda_dtypes=(torch.float32, torch.float64, torch.float16, torch.bfloat16),
)


def fourier(
    u: Tensor,  # [W]
    v: Tensor,  # [H]
    rows: Tensor,  # [..., k, 2]
    phase: Tensor | None = None,  # [..., k]
    impl: str = "auto",
) -> Tensor:  # [..., 2k, H, W]
    """Fourier features of a product grid: e = [sin(B p + b); cos(B p + b)], p = (u, v).

    (INR-GAN, equation 1; Tancik et al. 2020.) Gradients: any order, also for the coordinates.

    Args:
        u: Horizontal coordinates [W].
        v: Vertical coordinates [H].
        rows: Frequencies B in radians per coordinate unit, [k, 2] shared or [N, k, 2] per image.
        phase: Phases b in radians, [k] or [N, k]; None = 0.
        impl: "auto", "ref" or "cpp", see `ops._dispatch.choose`.

    Returns:
        Features [2k, H, W] or [N, 2k, H, W]: the sines of all k rows, then the cosines.

    Raises:
        ValueError: If `rows` does not have two columns or `phase` does not fit it.
    """
    if rows.ndim not in (2, 3) or rows.shape[-1] != 2:
        raise ValueError(f"fourier needs rows [k, 2] or [N, k, 2], got {list(rows.shape)}")
    if phase is not None and phase.shape != rows.shape[:-1]:
        raise ValueError(f"fourier: phase {list(phase.shape)} does not fit rows {list(rows.shape)}")
    if u.ndim != 1 or v.ndim != 1:
        raise ValueError(f"fourier needs 1-D coordinates, got {list(u.shape)} and {list(v.shape)}")
    if impl == "ref":
        return reference.fourier(u, v, rows, phase)
    chosen, _reasons = _dispatch.choose("fourier", [u, v, rows, phase], impl)
    why_not = autograd.supports(u, v, rows, phase)
    if chosen == "ref" or why_not is not None:
        return plain.fourier(u, v, rows, phase)
    return autograd.native_fourier(chosen, u, v, rows, phase)
