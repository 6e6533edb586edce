"""The INR synthesis network of `inr-gan` and `inr-gan-bil`: a pyramid of 1x1 layers.

Skorokhodov et al., "Adversarial Generation of Continuous Images", on StyleGAN2's scaffolding: the
signal of `networks.field` with two coordinates, under the arguments of StyleGAN2's networks.
"""

from __future__ import annotations

from collections.abc import Sequence

from networks.field import ContinuousField
from networks.shapes import checked_img_shape


class INRSynthesis(ContinuousField):
    """Maps ws to a continuous image F(p), and renders it (design: the continuous image).

    Args:
        w_dim: Dimensionality of w.
        img_resolution: R = max(H, W) of the training images, >= 4.
        img_channels: 1 to 4.
        channel_base: C(r) = min(channel_base // r, channel_max), r = max(H_k, W_k) of a lattice.
        channel_max: See above.
        num_fp16_res: Number of highest lattices that run in float16 where the device gains.
        conv_clamp: Clamp of layer outputs; None = no clamp.
        upsampling: "nearest" or "bilinear", how a block reads the block below.
        rank: Rank of the modulation.
        fmm_activation: Row of the table in `ops.fmm`.
        img_shape: (C, H, W); None = square. Any H x W (lattices: `shapes.lattice_shapes`).
        fp16_channels_last: Accepted for StyleGAN2's callers; 1x1 layers have no use for it.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        upsampling: str = "bilinear",
        rank: int = 10,
        fmm_activation: str = "demod",
        img_shape: Sequence[int] | None = None,
        fp16_channels_last: bool = False,
    ) -> None:
        super().__init__(
            w_dim,
            checked_img_shape(img_shape, img_resolution, img_channels),
            channel_base=channel_base,
            channel_max=channel_max,
            num_fp16_res=num_fp16_res,
            conv_clamp=conv_clamp,
            upsampling=upsampling,
            rank=rank,
            fmm_activation=fmm_activation,
        )
        self.img_resolution = img_resolution
        self.img_resolution_log2 = (img_resolution - 1).bit_length()  # rounded up
