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
        m = torch.baddbmm(a.new_ones([]), a, b)
        modulated = weight * m
        if activation == "demod":
            return modulated / (modulated.norm(dim=2, keepdim=True) + 1e-8)
        return modulated
    m = torch.bmm(a, b)
    if activation == "tanh":
        return weight * (1 + torch.tanh(m))
    if activation == "half-sigmoid":
        return weight * (0.5 + torch.sigmoid(m))
    if activation == "sigmoid":
        return weight * (2 * torch.sigmoid(m))
    return weight * m
