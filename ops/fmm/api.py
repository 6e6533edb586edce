"""Public entry point of `fmm`."""

from __future__ import annotations

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import register_native
from ops.fmm import autograd, kernels, reference
from ops.fmm.reference import FMM_ACTIVATIONS

__all__ = ["FMM_ACTIVATIONS", "fmm"]

register_native(
    "fmm",
    cpu_sources=("fmm_cpu.cpp", "fmm_bwd_cpu.cpp"),
    cuda_sources=("fmm_fwd.cu", "fmm_bwd.cu"),
    cuda_dtypes=(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    unsupported=kernels.why_not,
)


def fmm(
    weight: Tensor,  # [O, I]
    a: Tensor,  # [N, O, r]
    b: Tensor,  # [N, r, I]
    activation: str = "demod",
    impl: str = "auto",
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:  # [N, O, I]
    """Composes per-sample weights by factorised multiplicative modulation.

    W = weight * g(scale * A B), elementwise, then an optional normalisation of each row
    (INR-GAN, section 3.2 of the paper; the constants of each variant as below).

    | activation | scale | g(m) | row norm |
    |---|---|---|---|
    | demod | 1/sqrt(r) | 1 + m | W / (norm + 1e-8) |
    | tanh | 1/sqrt(r) | 1 + tanh(m) | - |
    | half-sigmoid | 1/sqrt(r) | 1/2 + sigmoid(m) | - |
    | none | 1/sqrt(r) | 1 + m | - |
    | sigmoid | 1 | 2 sigmoid(m) | - |
    | identity | 1 | m | - |

    Gradients: 1st order by the kernel, higher ones composed of PyTorch operations.

    Args:
        weight: Shared weight [O, I], floating point.
        a: Left factors [N, O, r], same dtype.
        b: Right factors [N, r, I], same dtype.
        activation: A name of the table.
        impl: "auto", "ref" or "cpp", see `ops._dispatch.choose`.
        out_dtype: Precision of the result; None = that of the inputs. W is computed in the
            precision of the inputs (sums in float32 at least), rounded once to `out_dtype`;
            gradients have the dtype of the inputs.

    Returns:
        Weights [N, O, I] in `out_dtype`, contiguous.

    Raises:
        ValueError: If the shapes do not fit each other or the activation is unknown.
    """
    if weight.ndim != 2 or a.ndim != 3 or b.ndim != 3:
        raise ValueError(
            "fmm needs weight [O, I], a [N, O, r] and b [N, r, I], got "
            f"{list(weight.shape)}, {list(a.shape)} and {list(b.shape)}"
        )
    expected = (a.shape[0], a.shape[2], weight.shape[1])
    if a.shape[1] != weight.shape[0] or tuple(b.shape) != expected:
        raise ValueError(
            f"fmm: factors {list(a.shape)} x {list(b.shape)} do not produce [N, O, I] for "
            f"a weight {list(weight.shape)}"
        )
    check_activation(activation)
    chosen, _reasons = _dispatch.choose("fmm", [weight, a, b], impl)
    if chosen == "ref":
        return reference.fmm(weight, a, b, activation, out_dtype=out_dtype)
    return autograd.native_fmm(weight, a, b, activation, out_dtype or weight.dtype, chosen)


def check_activation(activation: str) -> None:
    """Raises ValueError unless it is a name of `FMM_ACTIVATIONS`."""
    if activation not in FMM_ACTIVATIONS:
        raise ValueError(
            f"fmm activation must be one of {', '.join(FMM_ACTIVATIONS)}, got {activation!r}"
        )
