"""`affine` by the product that suits the device (portable: runs from the source in a snapshot)."""

from __future__ import annotations

import torch
from torch import Tensor

# Entries of a weight from which on reading it takes longer than multiplying with it on a CPU.
_LARGE_WEIGHT = 2**20


def affine(
    x: Tensor,  # [N, I]
    weight: Tensor,  # [O, I]
    bias: Tensor | None = None,  # [O]
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:  # [N, O]
    """y = gain * x W^T + b. See `ops.affine.api.affine`."""
    if x.device.type == "cpu":
        # There most of the time goes into reading weights: the gain goes to x, which is less.
        x = x * gain
    else:
        weight = weight * gain
    if x.device.type == "cpu" and x.ndim == 2 and weight.numel() >= _LARGE_WEIGHT:
        # W x^T runs at the speed of memory; x W^T takes four times as long for a few rows.
        if bias is None:
            y = weight @ x.t()
        else:
            y = torch.addmm(bias[:, None], weight, x.t())
        return y.t().contiguous()
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
