"""Definition of `fmm` in plain PyTorch: differentiable to any order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Names of the activations and whether M = A B is divided by sqrt(rank) first.
FMM_ACTIVATIONS = {
    "demod": True,
    "tanh": True,
    "half-sigmoid": True,
    "none": True,
    "sigmoid": False,
    "identity": False,
}


def fmm(
    weight: Tensor,  # [O, I]
    a: Tensor,  # [N, O, r]
    b: Tensor,  # [N, r, I]
    activation: str = "demod",
    impl: str = "ref",
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:  # [N, O, I]
    """W = weight * g(scale * A B), rows normalised for "demod". See `ops.fmm.api.fmm`."""
    if activation not in FMM_ACTIVATIONS:
        raise ValueError(
            f"fmm activation must be one of {', '.join(FMM_ACTIVATIONS)}, got {activation!r}"
        )
    if FMM_ACTIVATIONS[activation]:
        # The factor is spread over the small matrix rather than over the [N, O, I] product.
        a = a * (1 / math.sqrt(a.shape[2]))
    if activation in ("demod", "none"):
        # W + W * (A B), with the product accumulated onto 1.
        composed = weight * torch.baddbmm(a.new_ones([]), a, b)
        if activation == "demod":
            composed = composed / (composed.norm(dim=2, keepdim=True) + 1e-8)
    else:
        m = torch.bmm(a, b)
        if activation == "tanh":
            composed = weight * (1 + torch.tanh(m))
        elif activation == "half-sigmoid":
            composed = weight * (0.5 + torch.sigmoid(m))
        elif activation == "sigmoid":
            composed = weight * (2 * torch.sigmoid(m))
        else:
            composed = weight * m
    return composed if out_dtype is None else composed.to(out_dtype)
