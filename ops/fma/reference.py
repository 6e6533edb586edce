"""The definition of `fma` in plain PyTorch (portable: runs from the source in a snapshot)."""

from __future__ import annotations

import torch


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """a * b + c with broadcasting; see `ops.fma.fma`. `impl` is ignored here."""
    if a.dtype == b.dtype == c.dtype:
        return torch.addcmul(c, a, b)
    return a * b + c
