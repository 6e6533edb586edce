"""The synthesis network of the published INR-GAN code, by its names and numbers.

Presets `inr-gan-published` and `inr-gan-bil-published` (configurations `inr-gan.yml` and
`inr-gan-bil.yml`). Blocks b4, b8, ... carry StyleGAN2's names; those up to the first lattice
(32 x 32) all live on it. What differs from `networks.inr`: tables with one entry per pixel,
samples at the cells' corners, bilinear interpolation with aligned corners, and instance norm
(features divided by their standard deviation over the training grid).

Opening a published snapshot: `Generator(**init_kwargs, preset=...)`, with the `_init_kwargs` of the
file's Generator, among them `cfg` as plain dictionaries (`${a.b}` references may stay), takes the
file's state_dict strictly. The preset follows from `cfg["upsampling_mode"]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from networks.inr_block import compose_blocks
from networks.lattice import Sampling
from networks.layers import channels_at, first_fp16_resolution, resolution_log2
from networks.levels import GridLevel, PointLevel, grid_levels
from networks.published_block import PublishedBlock, PublishedBlockWeights
from networks.published_config import (
    PublishedSettings,
    published_cfg,
    published_settings,
    resolve_references,
)
from networks.render import ContinuousSynthesis, activation_bytes


class PublishedSynthesis(ContinuousSynthesis):
    """Maps ws to a continuous image F(p) that is the published network's image on its grid.

    Args:
        w_dim: Dimensionality of w.
        img_resolution: Side of the training images, a power of two >= 4. Published: 256.
        img_channels: 1 to 4.
        channel_base: C(r) = min(channel_base // r, channel_max). Published: 32768.
        channel_max: See above.
        num_fp16_res: Number of highest blocks that run in float16 where the device gains.
        conv_clamp: Clamp of layer outputs; None = no clamp.
        upsampling: "nearest" or "bilinear" (aligned corners). With cfg: what it must say.
        cfg: Published configuration, see `published_config`; None = the published one of this
            upsampling. Its `fp32` and `fmaps` are the training script's: they do nothing here.
        fp16_channels_last: Accepted for StyleGAN2's callers; 1x1 layers have no use for it.

    Raises:
        ValueError: cfg is of another architecture, or does not fit upsampling or resolution.
    """

    has_tables = True

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        upsampling: str = "nearest",
        cfg: Mapping[str, Any] | None = None,
        fp16_channels_last: bool = False,
    ) -> None:
        super().__init__()
        log2 = resolution_log2(img_resolution)
        self.cfg = resolve_references(cfg or published_cfg(upsampling, img_resolution))
        settings = published_settings(self.cfg)
        _check_settings(settings, upsampling, img_resolution)
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_resolution_log2 = log2
        self.img_channels = img_channels
        self.img_shape = (img_channels, img_resolution, img_resolution)
        self.upsampling = upsampling
        self.num_fp16_res = num_fp16_res
        self.block_resolutions = [2**k for k in range(2, log2 + 1)]
        first_half = first_fp16_resolution(img_resolution, num_fp16_res)
        in_channels = 0
        for resolution in self.block_resolutions:
            out_channels = channels_at(resolution, channel_base, channel_max)
            block = PublishedBlock(
                in_channels,
                out_channels,
                w_dim,
                resolution,
                img_channels,
                is_last=resolution == img_resolution,
                cfg=self.cfg,
                conv_clamp=conv_clamp,
                use_fp16=resolution >= first_half,
            )
            setattr(self, f"b{resolution}", block)
            in_channels = out_channels
        self.num_ws = sum(block.num_conv for block in self.blocks()) + 1

    @property
    def sampling(self) -> Sampling:
        """How the lattices lie: sample points at the cells' corners, aligned if bilinear."""
        return Sampling(self.upsampling, Fraction(0), self.upsampling == "bilinear")

    def lattices(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Cells of every lattice at training size: vertically, and horizontally."""
        sides = tuple(sorted({block.resolution for block in self.blocks()}))
        return sides, sides

    def live_channels(self, num_activations: int) -> list[int]:
        """Channels alive at once per lattice: some activations of a layer plus its features."""
        channels: dict[int, int] = {}
        for block in self.blocks():
            own = num_activations * block.out_channels + block.layers()[0].in_channels
            channels[block.resolution] = max(own, channels.get(block.resolution, 0))
        return [channels[side] for side in sorted(channels)]

    def compose(self, ws: Tensor) -> list[PublishedBlockWeights]:
        """Composes theta, the weights of all blocks, from ws [N, num_ws, w_dim].

        Raises:
            ValueError: If ws has another shape.
        """
        return compose_blocks(ws, self.w_dim, self.blocks())

    def measure(
        self,
        theta: Sequence[PublishedBlockWeights],
        tile_budget: int,
        force_fp32: bool,
        dtype: torch.dtype | None,
    ) -> list[PublishedBlockWeights]:
        """Adds the instance-norm scales, measured on the training grid of each image.

        Args:
            theta: Result of `compose`.
            tile_budget: Bytes of activations that may be alive at once, but at least one image.
            force_fp32, dtype: Precision in which the image is going to be drawn.
        """
        theta = list(theta)
        if not any(layer.instance_norm for block in self.blocks() for layer in block.layers()):
            return theta
        levels = grid_levels(*self.training_levels())
        at_once = max(1, tile_budget // activation_bytes(self, 1, levels))
        parts = []
        for first in range(0, len(theta[0].rgb), at_once):
            part = [weights.images(first, first + at_once) for weights in theta]
            parts.append([w.scales for w in self._run(part, levels, force_fp32, dtype)[1]])
        measured = []
        for weights, of_block in zip(theta, zip(*parts)):
            of_layers = zip(*of_block)
            scales = tuple(None if s[0] is None else torch.cat(s) for s in of_layers)
            measured.append(weights._replace(scales=scales))
        return measured

    def evaluate(
        self,
        theta: Sequence[PublishedBlockWeights],
        levels: Sequence[GridLevel | PointLevel],
        force_fp32: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Evaluates F on a product grid or at single points.

        Args:
            theta: Result of `compose` (for the training grid) or `measure` (for any points).
            levels: The plan, one level per lattice (`networks.levels`).
            force_fp32, dtype: See `PublishedBlock.forward`.

        Returns:
            Image [N, C, H, W], float32; of P single points [N, C, 1, P].
        """
        return self._run(theta, levels, force_fp32, dtype)[0]

    def _run(
        self,
        theta: Sequence[PublishedBlockWeights],
        levels: Sequence[GridLevel | PointLevel],
        force_fp32: bool,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, list[PublishedBlockWeights]]:
        """The image, and theta with the scales that were used."""
        x = img = None
        used = []
        sides = self.lattices()[0]
        for block, weights in zip(self.blocks(), theta):
            level = levels[sides.index(block.resolution)]
            wanted = not block.is_last
            x, img, weights = block(weights, x, img, level, force_fp32, dtype, wanted)
            used.append(weights)
        return img, used


def _check_settings(settings: PublishedSettings, upsampling: str, img_resolution: int) -> None:
    if settings.upsampling != upsampling:
        raise ValueError(
            f"cfg.upsampling_mode={settings.upsampling} does not fit this preset, whose blocks "
            f"read the lattice below {upsampling}"
        )
    first = settings.first_lattice
    if first & (first - 1) or first > img_resolution:
        raise ValueError(
            f"cfg.input.resolution must be a power of two, at most {img_resolution} "
            f"(img_resolution), got {first}"
        )
