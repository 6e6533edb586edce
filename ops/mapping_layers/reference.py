"""`mapping_layers` by PyTorch's operations (portable: runs from the source in a snapshot)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops.affine import affine
from ops.bias_act import bias_act


def normalize_2nd_moment(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x / sqrt(mean(x^2) + eps) along `dim`; same shape and dtype as `x`."""
    return x * (x.square().mean(dim=dim, keepdim=True) + eps).rsqrt()


def mapping_layers(
    z: Tensor | None,  # [N, Z]
    c: Tensor | None,  # [N, C]
    embed: tuple[Tensor, Tensor] | None,  # [E, C] and [E]
    layers: Sequence[tuple[Tensor, Tensor]],  # K of [O, I] and [O]
    act: str = "lrelu",
    lr_multiplier: float = 1,
    impl: str = "auto",
) -> Tensor:  # [N, O_K]
    """The mapping network; see `ops.mapping_layers.api.mapping_layers`."""
    parts = [] if z is None else [normalize_2nd_moment(z)]
    if c is not None:
        parts.append(normalize_2nd_moment(affine(c, *embed, c.shape[1] ** -0.5, impl=impl)))
    x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    for weight, bias in layers:
        x = affine(x, weight, None, lr_multiplier * weight.shape[1] ** -0.5, impl=impl)
        x = bias_act(x, bias * lr_multiplier, act=act, impl=impl)
    return x
