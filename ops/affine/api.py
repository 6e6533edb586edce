"""Public face of the op `affine`."""

from __future__ import annotations

from torch import Tensor

from ops import _dispatch
from ops.affine import plain, reference


def affine(
    x: Tensor,  # [N, I]
    weight: Tensor,  # [O, I]
    bias: Tensor | None = None,  # [O]
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:  # [N, O]
    """y = gain * x W^T + b. Gradients of any order.

    Args:
        x: Vectors, floating point.
        weight, bias: Of the same dtype; None = no bias.
        gain: Factor of the weight, as of layers with an equalised learning rate.
        impl: "auto" | "ref" | "cuda", see `ops._dispatch.choose`; "cpp": there is no such kernel.

    Returns:
        [N, O], contiguous.

    Raises:
        RuntimeError: Shapes that do not fit; impl="cpp".
    """
    _dispatch.choose("affine", (x, weight, bias), impl)
    module = reference if impl == "ref" else plain
    return module.affine(x, weight, bias, gain)
