"""Public entry point of `fmm`."""

from __future__ import annotations

from torch import Tensor

from ops import _dispatch
from ops.fmm import reference
from ops.fmm.reference import FMM_ACTIVATIONS

__all__ = ["FMM_ACTIVATIONS", "fmm"]


def fmm(
    weight: Tensor,  # [O, I]
    a: Tensor,  # [N, O, r]
    b: Tensor,  # [N, r, I]
    activation: str = "demod",
    impl: str = "auto",
) -> Tensor:  # [N, O, I]
    """Composes per-sample weights by factorised multiplicative modulation.

    W = weight * g(scale * A B), elementwise, then an optional normalisation of each row
    (INR-GAN, section 3.2 of the paper; the constants of each variant as below).

    | activation | scale | g(m) | row norm |
    |---|---|---|---|
    | demod | 1/sqrt(r) | 1 + m | W / (norm + 1e-8) |
    | tanh | 1/sqrt(r) | 1 + tanh(m) | - |
    | half-sigmoid | 1/sqrt(r) | 1/2 + sigmoid(m) | - |
    | none | 1/sqrt(r) | 1 + m | - |
    | sigmoid | 1 | 2 sigmoid(m) | - |
    | identity | 1 | m | - |

    Gradients: any order (composed of differentiable PyTorch operations).

    Args:
        weight: Shared weight [O, I], floating point.
        a: Left factors [N, O, r], same dtype.
        b: Right factors [N, r, I], same dtype.
        activation: A name of the table.
        impl: "auto" or "ref", see `ops._dispatch.choose`.

    Returns:
        Weights [N, O, I] in the dtype of the inputs.

    Raises:
        ValueError: If the shapes do not fit each other or the activation is unknown.
    """
    if weight.ndim != 2 or a.ndim != 3 or b.ndim != 3:
        raise ValueError(
            "fmm needs weight [O, I], a [N, O, r] and b [N, r, I], got "
            f"{list(weight.shape)}, {list(a.shape)} and {list(b.shape)}"
        )
    expected = (a.shape[0], a.shape[2], weight.shape[1])
    if a.shape[1] != weight.shape[0] or tuple(b.shape) != expected:
        raise ValueError(
            f"fmm: factors {list(a.shape)} x {list(b.shape)} do not produce [N, O, I] for "
            f"a weight {list(weight.shape)}"
        )
    _dispatch.choose("fmm", [weight, a, b], impl)
    return reference.fmm(weight, a, b, activation)
