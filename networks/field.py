"""A continuous signal of one, two or three coordinates: sound, image, video or volume.

The pyramid of `inr-gan` and `inr-gan-bil` with any number of axes (Skorokhodov et al., "Adversarial
Generation of Continuous Images", whose section 5 asks for a universal decoder). Each block lives on
a lattice R_1 < ... < R_K; block k < K is a function on the cells of its lattice, the last block a
function of the point itself. The signal is decoded from ws, so that one network stands for many.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from networks.inr_block import INRBlock, INRBlockWeights, compose_blocks
from networks.lattice import Sampling
from networks.layers import channels_at, check_choice
from networks.levels import GridLevel, PointLevel
from networks.render import ContinuousSynthesis
from networks.shapes import LARGEST_FIRST_LATTICE, lattice_shapes, num_highest


class ContinuousField(ContinuousSynthesis):
    """Maps ws to a continuous signal F(p), and renders it.

    Shapes are those of images below; with one coordinate (C, W), [N, C, W], with three (C, D, H,
    W), [N, C, D, H, W]. Coordinates are x, y, z along W, H, D; the unit square, interval or cube is
    the whole signal. In a video z is the time.

    Args:
        w_dim: Dimensionality of w.
        img_shape: Channels and samples along each axis of the signal at training size, (C, H, W);
            the longest side is at least 4.
        channel_base: C(r) = min(channel_base // r, channel_max), r = longest side of a lattice.
        channel_max: See above.
        num_fp16_res: Number of highest lattices that run in float16 where the device gains.
        conv_clamp: Clamp of layer outputs; None = no clamp.
        upsampling: "nearest" or "bilinear" (linear along every axis), how a block reads the block
            below.
        rank: Rank of the modulation.
        fmm_activation: Row of the table in `ops.fmm`.
        largest_first: Cells that the coarsest lattice has at most along the longest side. Along one
            axis a large number such as 1024 costs little and saves many blocks.
        unit: "shortest" or "longest": the side along which the coordinate that the features are
            functions of goes from -1 to 1; the other sides follow in proportion. The highest
            frequency turns by at most pi/2 from cell to cell of a lattice if the unit is the
            longest side, and by so many times more as that is longer than the shortest otherwise.

    Raises:
        ValueError: Another number of coordinates, too few samples, an unknown `upsampling` or
            `unit`.
    """

    def __init__(
        self,
        w_dim: int,
        img_shape: Sequence[int],
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        upsampling: str = "bilinear",
        rank: int = 10,
        fmm_activation: str = "demod",
        largest_first: int = LARGEST_FIRST_LATTICE,
        unit: str = "shortest",
    ) -> None:
        super().__init__()
        check_choice(upsampling, ("nearest", "bilinear"), "upsampling")
        check_choice(unit, ("shortest", "longest"), "unit")
        if not 2 <= len(img_shape) <= 4:
            raise ValueError(
                "a signal has one, two or three coordinates: img_shape is (C, W), (C, H, W) or "
                f"(C, D, H, W), got {tuple(img_shape)}"
            )
        self.w_dim = w_dim
        self.img_shape = tuple(img_shape)
        self.img_channels = img_shape[0]
        self.upsampling = upsampling
        self.num_fp16_res = num_fp16_res
        self.largest_first = largest_first
        self.block_resolutions = [max(cells) for cells in zip(*self.lattices())]
        in_half = num_highest(self.block_resolutions, num_fp16_res)
        in_channels = 0
        for resolution in self.block_resolutions:
            out_channels = channels_at(resolution, channel_base, channel_max)
            num_layers = 4 if in_channels == 0 else 3 if resolution >= 128 else 2
            block = INRBlock(
                in_channels,
                out_channels,
                w_dim,
                resolution,
                self.img_shape,
                num_layers,
                rank=rank,
                fmm_activation=fmm_activation,
                conv_clamp=conv_clamp,
                use_fp16=resolution in in_half,
                unit=unit,
            )
            setattr(self, f"b{resolution}", block)
            in_channels = out_channels
        self.num_ws = sum(block.num_conv for block in self.blocks()) + 1

    @property
    def sampling(self) -> Sampling:
        """How the lattices lie: sample points at the cells' centres."""
        return Sampling(self.upsampling)

    def lattices(self) -> tuple[tuple[int, ...], ...]:
        """Cells of every block at training size: vertically, and horizontally."""
        shapes = lattice_shapes(*self.img_shape[1:], largest_first=self.largest_first)
        return tuple(zip(*shapes))

    def live_channels(self, num_activations: int) -> list[int]:
        """Channels alive at once per block: some activations of a layer plus its features."""
        return [
            num_activations * block.layers[0].out_channels + block.layers[0].in_channels
            for block in self.blocks()
        ]

    def compose(self, ws: Tensor) -> list[INRBlockWeights]:
        """Composes theta, the weights of all blocks, from ws [N, num_ws, w_dim].

        Raises:
            ValueError: If ws has another shape.
        """
        return compose_blocks(ws, self.w_dim, self.blocks())

    def evaluate(
        self,
        theta: Sequence[INRBlockWeights],
        levels: Sequence[GridLevel | PointLevel],
        force_fp32: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Evaluates F on a product grid or at single points.

        Args:
            theta: Result of `compose`.
            levels: The plan, one level per block (`networks.levels`).
            force_fp32, dtype: See `INRBlock.forward`.

        Returns:
            Image [N, C, H, W], float32; of P single points [N, C, 1, P].
        """
        x = img = None
        blocks = self.blocks()
        for block, weights, level in zip(blocks, theta, levels):
            is_last = block is blocks[-1]
            x, img = block(weights, x, img, level, force_fp32, dtype, want_features=not is_last)
        return img
