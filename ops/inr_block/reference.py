"""Definition of `inr_block`: every layer, to-RGB and the image below by their own definitions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ops.bias_act import bias_act
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps
from ops.inr_layer.reference import inr_layer, lattice_upsample


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
    impl: str = "ref",
) -> tuple[Tensor | None, Tensor]:  # [N, O, H, W], [N, C, H, W]
    """x <- act(W [up(x); e(p)] + b) * gain, clamped; image = clamp(W_rgb x + b) + up(img)."""
    options = {"act": act, "gain": gain, "clamp": clamp}
    x = inr_layer(layers[0], x, biases[0], taps=taps, coords=coords, **options)
    for weight, bias in zip(layers[1:], biases[1:]):
        x = inr_layer(weight, x, bias, **options)
    image = inr_layer(rgb, x).to(rgb_bias.dtype)
    image = bias_act(image, rgb_bias, clamp=clamp, impl="ref")
    if img is not None:
        image = image + (img if taps is None else lattice_upsample(img, *taps))
    return x if want_features else None, image
