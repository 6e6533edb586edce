"""Public face of the op `fma`."""

from __future__ import annotations

import torch

from ops._dispatch import choose
from ops.fma import reference


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """a * b + c with NumPy broadcasting, in one pass over memory.

    Args:
        a: Any shape, floating point.
        b: Any shape that broadcasts with `a`.
        c: Any shape that broadcasts with `a * b`.
        impl: "auto" | "ref" | "cuda" | "cpp", see `ops._dispatch.choose`.

    Returns:
        The broadcast shape and promoted dtype of the arguments.

    Orders of gradient: 1st, 2nd and higher composed by autograd.
    """
    choose("fma", (a, b, c), impl)
    return reference.fma(a, b, c)
