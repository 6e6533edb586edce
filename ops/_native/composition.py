"""Gradients of higher orders for ops whose kernels know the first one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def composed_gradients(
    function: Callable[..., Tensor | Sequence[Tensor | None]],
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    grads: Tensor | Sequence[Tensor | None],
    allow_unused: bool = False,
) -> list[Tensor | None]:
    """What a backward pass returns while it is itself recorded: differentiable to any order.

    Args:
        function: The op by PyTorch's operations, of `tensors` to one result or several.
        tensors: What the op was called with; None where it had no such input.
        wanted: Which of them get a gradient.
        grads: Gradients of the results; None for those that nothing depends on.
        allow_unused: Whether a wanted gradient may be None, because no result depends on it or
            weight gradients are switched off; else an error.

    Returns:
        One gradient per tensor, None where it is not wanted.
    """
    with torch.enable_grad():
        # Views, so that a tensor which another one depends on gets its own share only.
        views = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        results = function(*views)
        if isinstance(results, Tensor):
            results, grads = [results], [grads]
        pairs = [(y, grad) for y, grad in zip(results, grads) if grad is not None]
        inputs = [view for view, want in zip(views, wanted) if want]
        found = torch.autograd.grad(
            [y for y, _grad in pairs],
            inputs,
            [grad for _y, grad in pairs],
            create_graph=True,
            allow_unused=allow_unused,
        )
    return in_places(found, wanted)


def room_for_gradients(
    tensors: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Uninitialised contiguous tensors like those that are wanted, None for the others."""
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if want else None
        for tensor, want in zip(tensors, wanted, strict=True)
    ]


def in_places(found: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of those that are wanted -> one per input, None for the others."""
    remaining = iter(found)
    return [next(remaining) if want else None for want in wanted]
