"""One lattice of the INR pyramid: layers with weights composed per signal, to-RGB.

Skorokhodov et al., "Adversarial Generation of Continuous Images", on StyleGAN2's scaffolding. A
layer multiplies features and coordinate features by weights composed per image (factorised
multiplicative modulation, FMM). Coordinates are one, two (written out here) or three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from networks.fourier import (
    PREDICTED_ROWS_SCALE,
    axis_table,
    centred,
    grid_features,
    num_octaves,
    point_features,
    shared_rows,
)
from networks.layers import FullyConnectedLayer, block_dtype
from networks.levels import GridLevel, PointLevel
from ops.inr_block import inr_block
from ops.inr_layer import CoordFeatures
from ops.inr_weights import inr_weights

NUM_PREDICTED_ROWS = 64


class INRBlockWeights(NamedTuple):
    """The weights of one block for a batch of images: one slice of theta.

    Attributes:
        layers: Per layer [N, O, I + E].
        rgb: [N, C, O].
        rows: Frequencies [N, k, d] predicted from w (first block), else None.
        phase: Phases [N, k] that go with them, else None.
    """

    layers: tuple[Tensor, ...]
    rgb: Tensor
    rows: Tensor | None
    phase: Tensor | None


class INRLayer(nn.Module):
    """Shared weight and bias of one FMM-modulated 1x1 layer, and the factors predicted from w.

    Args:
        in_channels: Input channels, coordinate features included.
        out_channels: Output channels.
        w_dim: Dimensionality of w.
        rank: Rank r of the modulation.
        fmm_activation: Row of the table in `ops.fmm`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        rank: int = 10,
        fmm_activation: str = "demod",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.rank = rank
        self.fmm_activation = fmm_activation
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.affine = FullyConnectedLayer(w_dim, (in_channels + out_channels) * rank)


class INRToRGB(nn.Module):
    """StyleGAN2's to-RGB as weights: modulated 1x1, no demodulation, no activation."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)


def block_weights(
    ws: Tensor,
    layers: Sequence[nn.Module],
    torgb: nn.Module,
    predict: FullyConnectedLayer | None = None,
) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
    """Composes the weights of a block's layers and to-RGB.

    Args:
        ws: [N, layers + 1, w_dim].
        layers: Modules with `weight` [O, I] or [O, I, 1, 1], `affine` and `fmm_activation`.
        torgb: The same for to-RGB.
        predict: A linear layer for the first w; None = nothing is predicted.

    Returns:
        Per layer [N, O, I], [N, C, O], and what is predicted, [N, R] or None.
    """
    # A module looks its parts up by name, so each is asked for once.
    affines = [layer.affine for layer in layers]
    rgb_affine = torgb.affine
    return inr_weights(
        ws,
        [layer.weight.flatten(1) for layer in layers],
        [(affine.weight, affine.bias) for affine in affines],
        torgb.weight.flatten(1),
        (rgb_affine.weight, rgb_affine.bias),
        layers[0].fmm_activation,
        None if predict is None else (predict.weight, predict.bias),
    )


def compose_blocks(ws: Tensor, w_dim: int, blocks: Sequence[nn.Module]) -> list:
    """Composes the weights of all blocks: of each from one w per layer and one for to-RGB.

    Args:
        ws: [N, num_ws, w_dim]; the w of a block's to-RGB is that of the next block's first layer.
        w_dim: Dimensionality of w.
        blocks: Modules with `num_conv`, `torgb` and `compose`.

    Returns:
        What each block composes.

    Raises:
        ValueError: If ws has another shape.
    """
    num_ws = sum(block.num_conv for block in blocks) + 1
    if ws.ndim != 3 or tuple(ws.shape[1:]) != (num_ws, w_dim):
        raise ValueError(f"ws must be [N, {num_ws}, {w_dim}], got {list(ws.shape)}")
    ws = ws.to(blocks[0].torgb.bias.dtype)
    theta, start = [], 0
    for block in blocks:
        theta.append(block.compose(ws[:, start : start + block.num_conv + 1]))
        start += block.num_conv
    return theta


class INRBlock(nn.Module):
    """One lattice of the pyramid: coordinate features, a few layers, to-RGB.

    Args:
        in_channels: Channels of the block below; 0 = first block.
        out_channels: Channels of all layers.
        w_dim: Dimensionality of w.
        resolution: R_k, lattice cells along the longer side at training size.
        img_shape: (C, H, W) of the training images; (C, W) or (C, D, H, W) of other signals.
        num_layers: Number of layers.
        rank, fmm_activation: See `INRLayer`.
        conv_clamp: Clamp of the layers' outputs; None = no clamp.
        use_fp16: Whether the block runs in float16 where the device gains from it.
        unit: "shortest" or "longest", the side along which the centred coordinate is -1 to 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_shape: Sequence[int],
        num_layers: int,
        rank: int = 10,
        fmm_activation: str = "demod",
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        unit: str = "shortest",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.img_shape = tuple(img_shape)
        self.img_channels = img_shape[0]
        self.num_conv = num_layers
        self.num_torgb = 1
        self.conv_clamp = conv_clamp
        self.use_fp16 = use_fp16
        self.unit = unit
        self.octaves = num_octaves(resolution)
        num_coords = len(self.img_shape) - 1
        self.register_buffer("shared_rows", shared_rows(resolution, num_coords))
        self.num_predicted = NUM_PREDICTED_ROWS if in_channels == 0 else 0
        num_rows = num_coords * self.octaves + len(self.shared_rows) + self.num_predicted
        if self.num_predicted:
            self.predict = FullyConnectedLayer(w_dim, (num_coords + 1) * self.num_predicted)
        inputs = [in_channels + 2 * num_rows] + [out_channels] * (num_layers - 1)
        self.layers = nn.ModuleList(
            INRLayer(channels, out_channels, w_dim, rank, fmm_activation) for channels in inputs
        )
        self.torgb = INRToRGB(out_channels, self.img_channels, w_dim)

    def compose(self, ws: Tensor) -> INRBlockWeights:
        """Composes the block's weights.

        Args:
            ws: [N, num_conv + num_torgb, w_dim].
        """
        predict = self.predict if self.num_predicted else None
        layers, rgb, predicted = block_weights(ws, self.layers, self.torgb, predict)
        rows = phase = None
        if predicted is not None:
            predicted = predicted.unflatten(1, (self.num_predicted, -1))
            rows, phase = predicted[:, :, :-1] * PREDICTED_ROWS_SCALE, predicted[:, :, -1]
        return INRBlockWeights(layers, rgb, rows, phase)

    def forward(
        self,
        weights: INRBlockWeights,
        x: Tensor | None,
        img: Tensor | None,
        level: GridLevel | PointLevel,
        force_fp32: bool = False,
        dtype: torch.dtype | None = None,
        want_features: bool = True,
    ) -> tuple[Tensor | None, Tensor]:
        """Evaluates the block at the points of a level.

        Args:
            weights: Result of `compose`.
            x: Features of the block below [N, I, h, w]; None for the first block.
            img: Image of the block below [N, C, h, w], float32; None for the first block.
            level: H x W points and their taps into the block below (P single points: H = 1). Along
                one or three axes all tensors have one dimension less or more.
            force_fp32: Run in float32; wins over `dtype`.
            dtype: Precision of this call; None = the block's own.
            want_features: Whether the features are wanted; the last block's are not.

        Returns:
            Features [N, O, H, W] (None unless wanted) and image [N, C, H, W] (float32).
        """
        device, stored = weights.rgb.device, self.torgb.bias.dtype
        dtype = block_dtype(dtype, self.use_fp16, stored, device, force_fp32)
        return inr_block(
            _cast(weights.layers, dtype),
            _cast([layer.bias for layer in self.layers], dtype),
            weights.rgb.to(dtype),
            self.torgb.bias,
            None if x is None else x.to(dtype),
            img,
            taps=level.taps(device),
            coords=self._coords(weights, level).to_dtype(dtype),
            act="lrelu",
            clamp=self.conv_clamp,
            want_features=want_features,
        )

    def _coords(self, weights: INRBlockWeights, level: GridLevel | PointLevel) -> CoordFeatures:
        sides = self.img_shape[1:]
        unit = max(sides) if self.unit == "longest" else min(sides)
        predicted = None if weights.rows is None else (weights.rows, weights.phase)
        precision = torch.promote_types(self.shared_rows.dtype, torch.float32)
        if isinstance(level, PointLevel):
            coords = [
                centred(along, side, unit) for along, side in zip(level.coords(), reversed(sides))
            ]
            return point_features(coords, self.octaves, self.shared_rows, predicted)
        axes = [
            axis_table(axis, side, unit, self.octaves, self.shared_rows, precision)
            for axis, side in zip(reversed(level.axes()), reversed(sides))
        ]
        return grid_features(axes, self.shared_rows, predicted)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    # To ask is cheaper than to cast to the same.
    return [tensor if tensor.dtype == dtype else tensor.to(dtype) for tensor in tensors]
