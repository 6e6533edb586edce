"""The definition of `grid_sample` in plain PyTorch (portable: runs from a snapshot's source)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def grid_sample(input: torch.Tensor, grid: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """Bilinear samples, zero outside; see `ops.grid_sample.grid_sample`. `impl` is ignored."""
    return F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
