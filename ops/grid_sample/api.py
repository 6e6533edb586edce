"""Public face of the op `grid_sample`."""

from __future__ import annotations

import torch

from ops._dispatch import choose
from ops.grid_sample import reference
from ops.grid_sample.autograd import GridSample


def grid_sample(input: torch.Tensor, grid: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """Samples images bilinearly at the positions of a grid; zero outside.

    Position (-1, -1) is the outer corner of the first pixel, (1, 1) that of the last one
    (align_corners=False): pixel j of W has its centre at (2 j + 1) / W - 1.

    Args:
        input: [N, C, H, W], floating point.
        grid: [N, H', W', 2], positions (x, y), dtype of `input`.
        impl: "auto" | "ref" | "cuda" | "cpp", see `ops._dispatch.choose`.

    Returns:
        [N, C, H', W'], dtype of `input`.

    Raises:
        ValueError: Wrong shapes.

    Orders of gradient: input: 1st, 2nd and higher composed of this op and its transpose. If the
    grid needs a gradient, PyTorch's own derivatives are used: 1st order always, 2nd where PyTorch
    has it; otherwise it raises.
    """
    if input.ndim != 4:
        raise ValueError(f"grid_sample: input must be [N, C, H, W], got {list(input.shape)}")
    if grid.ndim != 4 or grid.shape[3] != 2 or grid.shape[0] != input.shape[0]:
        raise ValueError(
            f"grid_sample: grid must be [{input.shape[0]}, H, W, 2], got {list(grid.shape)}"
        )
    choose("grid_sample", (input, grid), impl)
    if impl == "ref" or grid.requires_grad or not input.requires_grad:
        return reference.grid_sample(input, grid)
    return GridSample.apply(input, grid)
