"""`inr_block` as a composition of the layer's op: differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ops.bias_act import bias_act
from ops.inr_layer import AxisTaps, CoordFeatures, PointTaps, inr_layer, lattice_upsample


def inr_block(
    layers: Sequence[Tensor],  # [N, O, I (+ E)] each
    biases: Sequence[Tensor],  # [O] or [N, O] each
    rgb: Tensor,  # [N, C, O]
    rgb_bias: Tensor,  # [C]
    x: Tensor | None = None,  # [N, I, h, w]
    img: Tensor | None = None,  # [N, C, h, w]
    *,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    want_features: bool = True,
    impl: str = "auto",
) -> tuple[Tensor | None, Tensor]:  # [N, O, H, W], [N, C, H, W]
    """Layer by layer. See `ops.inr_block.api.inr_block`."""
    for index, (weight, bias) in enumerate(zip(layers, biases)):
        x = inr_layer(
            weight,
            x,
            bias,
            taps=taps if index == 0 else None,
            coords=coords if index == 0 else None,
            act=act,
            gain=gain,
            clamp=clamp,
        )
    image = inr_layer(rgb, x).to(rgb_bias.dtype)
    image = bias_act(image, rgb_bias, clamp=clamp)
    if img is not None:
        image = image + (img if taps is None else lattice_upsample(img, *taps))
    return x if want_features else None, image
