"""The paper's generators: a hypernetwork emits the weights of a small network that draws F(p).

Skorokhodov et al., "Adversarial Generation of Continuous Images": `MultiScaleSynthesis` is its
INR-GAN ("vanilla" here, to tell it from the later versions on StyleGAN2's scaffolding),
`SingleScaleSynthesis` the four baselines of its table 1. theta = Linear(w), cut into pieces in the
order of evaluation: for each block, coarse to fine, the Fourier frequencies [k, 2]; the layers (A
[o, r], B [r, i], b [o] with FMM), of a connector first the one on the block below; to-RGB [C, d]
and its bias. Every layer computes its piece from its own w, so that ws work as in StyleGAN2.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.hyper_block import HyperBlock, HyperBlockWeights
from networks.hyper_layers import PlainLinear
from networks.lattice import Sampling
from networks.layers import check_choice
from networks.levels import GridLevel, PointLevel
from networks.render import ContinuousSynthesis
from networks.shapes import checked_img_shape, num_highest

LATENT_CHANNELS = 512
"""Length of the latent that `inr-latent` feeds to its layers, at most `channel_max`."""


class HyperSynthesis(ContinuousSynthesis):
    """Common part: w -> theta -> weights of the blocks -> F(p) = tanh(sum of the to-RGBs).

    Args:
        w_dim: Dimensionality of w.
        img_resolution: R = max(H, W) of the training images.
        img_channels: 1 to 4.
        img_shape: (C, H, W); None = square. Any H x W.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        img_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_resolution_log2 = (img_resolution - 1).bit_length()  # rounded up
        self.img_channels = img_channels
        self.img_shape = checked_img_shape(img_shape, img_resolution, img_channels)
        self.upsampling = "nearest"

    def _finish(self, blocks: Sequence[HyperBlock], latent_channels: int = 0) -> None:
        """Takes the blocks, coarse to fine, and makes the projection of w that they need."""
        self.block_resolutions = [block.resolution for block in blocks]
        for block in blocks:
            setattr(self, f"b{block.resolution}", block)
        self.num_ws = sum(block.num_conv for block in blocks)
        self.latent_channels = latent_channels
        self.num_theta = sum(size for size, _ in self._pieces())
        num_outputs = latent_channels or self.num_theta
        self.to_theta = PlainLinear(self.w_dim, num_outputs, bias_gain=self.w_dim**-0.5)

    @property
    def sampling(self) -> Sampling:
        """How the lattices lie: sample points at the cells' upper left corners."""
        return Sampling("nearest", Fraction(0))

    def lattices(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Cells of every block at training size: vertically, and horizontally."""
        _, height, width = self.img_shape
        steps = [2**k for k in reversed(range(len(self.block_resolutions)))]
        return tuple(-(-height // s) for s in steps), tuple(-(-width // s) for s in steps)

    def live_channels(self, num_activations: int) -> list[int]:
        """Channels alive at once per block."""
        return [block.live_channels(num_activations) for block in self.blocks()]

    def hypernetwork_parameters(self) -> list[nn.Parameter]:
        """Parameters that learn at the rate of the mapping network: the projection of w."""
        return list(self.to_theta.parameters())

    def _pieces(self) -> list[tuple[int, int]]:
        """(length, index of its w) of each piece of theta."""
        pieces, start = [], 0
        for block in self.blocks():
            pieces += [(size, start + index) for size, index in block.theta_sizes()]
            start += block.num_conv
        return pieces

    def theta(self, ws: Tensor) -> Tensor:
        """What the hypernetwork emits, before any scale or activation.

        Args:
            ws: [N, num_ws, w_dim].

        Returns:
            [N, num_theta]; of `inr-latent` the projected latents of all layers.

        Raises:
            ValueError: If ws has another shape.
        """
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [N, {self.num_ws}, {self.w_dim}], got {list(ws.shape)}")
        weight, bias = self.to_theta.weight, self.to_theta.bias
        ws = ws.to(weight.dtype)
        if self.latent_channels:
            return self.to_theta(ws).flatten(1)
        # Neighbouring pieces of the same w are one product. Cut with split, whose gradient is one
        # concatenation; a slice's gradient would be as large as the whole matrix.
        sizes = [0] * self.num_ws
        for size, index in self._pieces():
            sizes[index] += size
        parts = zip(ws.unbind(1), weight.split(sizes), bias.split(sizes))
        return torch.cat([F.linear(w, rows, offset) for w, rows, offset in parts], 1)

    def compose_theta(self, theta: Tensor) -> list[HyperBlockWeights]:
        """The weights of all blocks from theta [N, num_theta]; theta may be interpolated."""
        pieces, weights, start = theta.split([size for size, _ in self._pieces()], 1), [], 0
        for block in self.blocks():
            count = len(block.theta_sizes())
            weights.append(block.compose(pieces[start : start + count]))
            start += count
        return weights

    def compose(self, ws: Tensor) -> list[HyperBlockWeights]:
        """The weights of all blocks from ws [N, num_ws, w_dim]."""
        return self.compose_theta(self.theta(ws))

    def evaluate(
        self,
        theta: Sequence[HyperBlockWeights],
        levels: Sequence[GridLevel | PointLevel],
        force_fp32: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Evaluates F on a product grid or at single points.

        Args:
            theta: Result of `compose`.
            levels: The plan, one level per block (`networks.levels`).
            force_fp32, dtype: See `HyperBlock.forward`.

        Returns:
            Image [N, C, H, W], float32, -1 to 1; of P single points [N, C, 1, P].
        """
        x = img = None
        for block, weights, level in zip(self.blocks(), theta, levels):
            x, img = block(weights, x, img, level, force_fp32, dtype)
        return img.tanh()


def vanilla_block_sizes(resolution: int) -> tuple[int, int, int]:
    """Layers n, width d and frequencies k of the vanilla model's block on a lattice of R_k cells.

    The authors' configurations (64: 3 layers; 128, 256: 4; 512: 2; 1024: 1; widths 512 up to 128,
    then 256, 64, 32; k = 64 up to 8, 256 up to 128, then 128, 32, 8), continued to lattices in
    between and beyond by the next one below.
    """
    layers = 3 if resolution < 128 else 4 if resolution < 512 else 2 if resolution < 1024 else 1
    if resolution <= 8:
        return layers, 512, 64
    for limit, width, frequencies in ((256, 512, 256), (512, 256, 128), (1024, 64, 32)):
        if resolution < limit:
            return layers, width, frequencies
    return layers, 32, 8


class MultiScaleSynthesis(HyperSynthesis):
    """INR-GAN as published: K blocks, each on a lattice of twice the cells of the one below.

    The first block reads Fourier features. A later block begins with a connector, relu(up(W_lr x)
    + W_hr e), where the product with the features x below is taken on their own lattice. The
    defaults are those of the authors' code and configurations; where the paper's text differs:

    * W = W_s sigmoid(A B), without the code's 2: `fmm_gain=0.5`, the same model up to W_s;
    * its parameter counts fit blocks that read the coordinates only in the first layer:
      `skip_coords=False`;
    * "2-4 layers, 512 units, first block 64x64": `layers_per_block`, `widths`, `num_blocks`; its
      FFHQ sizes are layers_per_block=(3, 3, 2, 2), widths=(512, 512, 128, 32), rgb_from=0.

    Args:
        w_dim, img_resolution, img_channels, img_shape: See `HyperSynthesis`.
        channel_base: Accepted for StyleGAN2's callers; the widths are those of the paper.
        channel_max: Upper limit of all widths.
        num_fp16_res: Number of highest lattices that run in float16 where the device gains.
        conv_clamp: Clamp of layer outputs; None = no clamp.
        num_blocks: K; None = 4 from R = 1024 on, else 2.
        layers_per_block, widths, frequencies: One number per block, coarse to fine; None = see
            `vanilla_block_sizes`.
        rank: Rank of the modulation.
        fmm_activation: Row of the table in `ops.fmm`.
        fmm_gain: Factor of every modulated weight.
        fourier_scale: Factor of the emitted frequencies.
        skip_coords: Whether every layer reads the coordinate features.
        rgb_from: Smallest lattice with to-RGB; the last block always has it.
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
        num_blocks: int | None = None,
        layers_per_block: Sequence[int] | None = None,
        widths: Sequence[int] | None = None,
        frequencies: Sequence[int] | None = None,
        rank: int = 10,
        fmm_activation: str = "sigmoid",
        fmm_gain: float = 1.0,
        fourier_scale: float = 10.0,
        skip_coords: bool = True,
        rgb_from: int = 128,
        img_shape: Sequence[int] | None = None,
        fp16_channels_last: bool = False,
    ) -> None:
        super().__init__(w_dim, img_resolution, img_channels, img_shape)
        if num_blocks is None:
            num_blocks = 4 if img_resolution >= 1024 else 2
        if num_blocks < 1 or img_resolution < 2 ** (num_blocks + 1):
            raise ValueError(
                f"num_blocks {num_blocks} does not fit images of {img_resolution} pixels: the "
                "smallest lattice needs at least 4 cells."
            )
        resolutions = [-(-img_resolution // 2**k) for k in reversed(range(num_blocks))]
        sizes = _block_sizes(resolutions, layers_per_block, widths, frequencies)
        in_half = num_highest(resolutions, num_fp16_res)
        has_rgb = [r >= rgb_from or r == img_resolution for r in resolutions]
        kind_kwargs = {"rank": rank, "fmm_activation": fmm_activation, "fmm_gain": fmm_gain}
        blocks: list[HyperBlock] = []
        for resolution, (layers, width, num_frequencies), rgb in zip(resolutions, sizes, has_rgb):
            further = ["concat" if skip_coords else "plain"] * layers
            modes = ["add", *further] if blocks else ["coords", *further[1:]]
            blocks.append(
                HyperBlock(
                    blocks[-1].out_channels if blocks else 0,
                    min(width, channel_max),
                    resolution,
                    self.img_shape,
                    modes,
                    num_frequencies,
                    fourier_scale=fourier_scale,
                    rgb_gain=sum(has_rgb) ** -0.5 if rgb else 0.0,
                    kind="fmm",
                    kind_kwargs=kind_kwargs,
                    conv_clamp=conv_clamp,
                    use_fp16=resolution in in_half,
                )
            )
        self._finish(blocks)


class SingleScaleSynthesis(HyperSynthesis):
    """The baselines of the paper's table 1: one lattice, no hierarchy.

    | preset | weights | first layer reads | layers |
    |---|---|---|---|
    | inr-latent | shared, a latent joins every layer | x, y | 8 |
    | inr-hyper | emitted directly | x, y | 6 |
    | inr-fourier | emitted directly | Fourier features | 6 |
    | inr-fmm | FMM | Fourier features | 6 |

    The layers `injected` of the last three read the coordinate features again (without Fourier
    features: the first layer's output), in the form that fits the published parameter counts best.

    Args:
        w_dim, img_resolution, img_channels, img_shape: See `HyperSynthesis`.
        channel_base: Accepted for StyleGAN2's callers; all layers are equally wide.
        channel_max: Upper limit of the width 512.
        num_fp16_res: Above 0: the network runs in float16 where the device gains.
        conv_clamp: Clamp of layer outputs; None = no clamp.
        kind: Where weights come from, "shared", "direct" or "fmm".
        num_layers: Number of layers before to-RGB.
        num_frequencies: k; 0 = no Fourier features.
        injection: "add" (a layer of its own on the features, added), "concat" or "none".
        injected: Numbers of the layers with an injection, counted from 1.
        rank, fmm_activation, fmm_gain: See `MultiScaleSynthesis`; for kind "fmm".
        fourier_scale: Factor of the emitted frequencies.
        fp16_channels_last: Accepted for StyleGAN2's callers.
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
        kind: str = "fmm",
        num_layers: int = 6,
        num_frequencies: int = 256,
        injection: str = "add",
        injected: Sequence[int] = (2, 4, 6),
        rank: int = 10,
        fmm_activation: str = "sigmoid",
        fmm_gain: float = 1.0,
        fourier_scale: float = 10.0,
        img_shape: Sequence[int] | None = None,
        fp16_channels_last: bool = False,
    ) -> None:
        super().__init__(w_dim, img_resolution, img_channels, img_shape)
        check_choice(injection, ("add", "concat", "none"), "injection")
        mode = "plain" if injection == "none" else injection
        modes = [mode if number in injected else "plain" for number in range(2, num_layers + 1)]
        latent_channels = min(LATENT_CHANNELS, channel_max) if kind == "shared" else 0
        kind_kwargs: dict[str, Any] = {}
        if kind == "fmm":
            kind_kwargs = {"rank": rank, "fmm_activation": fmm_activation, "fmm_gain": fmm_gain}
        elif kind == "shared":
            kind_kwargs = {"latent_channels": latent_channels}
        block = HyperBlock(
            0,
            min(512, channel_max),
            img_resolution,
            self.img_shape,
            ["coords", *modes],
            num_frequencies,
            fourier_scale=fourier_scale,
            kind=kind,
            kind_kwargs=kind_kwargs,
            conv_clamp=conv_clamp,
            use_fp16=num_fp16_res > 0,
        )
        self._finish([block], latent_channels)


def _block_sizes(
    resolutions: Sequence[int], *chosen: Sequence[int] | None
) -> list[tuple[int, ...]]:
    """(layers, width, frequencies) per block: what was chosen, the rest from the paper's table."""
    columns = list(zip(*[vanilla_block_sizes(resolution) for resolution in resolutions]))
    names = ("layers_per_block", "widths", "frequencies")
    for index, (name, values) in enumerate(zip(names, chosen)):
        if values is None:
            continue
        if len(values) != len(resolutions) or min(values) < 1:
            raise ValueError(
                f"{name} must be {len(resolutions)} positive numbers, one for each of the "
                f"lattices {list(resolutions)}, got {list(values)}"
            )
        columns[index] = tuple(int(value) for value in values)
    return list(zip(*columns))
