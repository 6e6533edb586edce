"""Definition of `affine` in plain PyTorch: differentiable to any order."""

from __future__ import annotations

from torch import Tensor


def affine(
    x: Tensor,  # [N, I]
    weight: Tensor,  # [O, I]
    bias: Tensor | None = None,  # [O]
    gain: float = 1,
    impl: str = "ref",
) -> Tensor:  # [N, O]
    """y = gain * x W^T + b. See `ops.affine.api.affine`."""
    y = x @ (weight * gain).t()
    return y if bias is None else y + bias
