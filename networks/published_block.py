"""One block of the published INR-GAN's synthesis network: its layers, features and image.

The arithmetic is that of `networks.inr_block`: 1x1 layers with factorised multiplicative modulation
(FMM) over features and coordinate features, composed per image from w.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from networks.inr_block import block_weights
from networks.layers import FullyConnectedLayer, block_dtype, conv_weight, resample_taps
from networks.levels import GridLevel, PointLevel
from networks.published_config import PublishedSettings, published_settings
from networks.published_fields import PublishedCoordFuser
from ops.inr_block import inr_block
from ops.inr_layer import inr_layer, lattice_upsample

_INSTANCE_NORM_EPS = 1e-8
_NORM_CHANNELS = 8
_RESAMPLE_FILTER = (1, 3, 3, 1)


class PublishedBlockWeights(NamedTuple):
    """The weights of one block for a batch of images: one slice of theta.

    Attributes:
        layers: Per layer [N, O, I (+ E)].
        rgb: [N, C, O].
        predicted: Frequencies [N, k, 2] and phases [N, k] predicted from w, or None.
        scales: Per layer, what its input is multiplied by: [N, I] as measured on the training
            grid, None = to be measured. Only layers with instance norm read it.
    """

    layers: tuple[Tensor, ...]
    rgb: Tensor
    predicted: tuple[Tensor, Tensor] | None
    scales: tuple[Tensor | None, ...]

    def images(self, first: int, last: int) -> PublishedBlockWeights:
        """The weights of images first .. last - 1."""
        predicted = self.predicted
        return PublishedBlockWeights(
            tuple(weight[first:last] for weight in self.layers),
            self.rgb[first:last],
            None if predicted is None else (predicted[0][first:last], predicted[1][first:last]),
            tuple(None if scale is None else scale[first:last] for scale in self.scales),
        )


class PublishedLayer(nn.Module):
    """Shared weight and bias of one FMM-modulated 1x1 layer, and the factors predicted from w.

    Args:
        in_channels: Input channels, coordinate features included.
        out_channels: Output channels.
        w_dim: Dimensionality of w.
        resolution: Cells of its lattice per axis.
        rank: Rank of the modulation.
        fmm_activation: Row of the table in `ops.fmm`.
        instance_norm: Whether the input is divided by its standard deviation.
        conv_clamp: Clamp of the output; None = no clamp.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        rank: int = 10,
        fmm_activation: str = "demod",
        instance_norm: bool = False,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.resolution = resolution
        self.up = 1
        self.use_noise = False
        self.activation = "lrelu"
        self.padding = 0
        self.rank = rank
        self.fmm_activation = fmm_activation
        self.instance_norm = instance_norm
        self.conv_clamp = conv_clamp
        self.weight = nn.Parameter(conv_weight(out_channels, in_channels, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        # Never used; part of the published state_dict.
        self.register_buffer("resample_filter", resample_taps(_RESAMPLE_FILTER))
        self.affine = FullyConnectedLayer(w_dim, (in_channels + out_channels) * rank)


class PublishedToRGB(nn.Module):
    """StyleGAN2's to-RGB as weights: modulated 1x1, no demodulation, no activation."""

    def __init__(
        self, in_channels: int, img_channels: int, w_dim: int, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv_clamp = conv_clamp
        self.weight = nn.Parameter(conv_weight(img_channels, in_channels, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)


class PublishedCoordsInput(nn.Module):
    """Holds the first block's coordinate features under the published name."""

    def __init__(self, coord_fuser: PublishedCoordFuser) -> None:
        super().__init__()
        self.coord_fuser = coord_fuser


class PublishedInput(nn.Module):
    """Holds the first block's input under the published name."""

    def __init__(self, source: PublishedCoordsInput) -> None:
        super().__init__()
        self.input = source


class PublishedBlock(nn.Module):
    """One block: coordinate features, a few layers, to-RGB.

    Args:
        in_channels: Channels of the block below; 0 = first block.
        out_channels: Channels of all layers.
        w_dim: Dimensionality of w.
        resolution: r of the block's name b{r}; it lives on the lattice max(r, first lattice).
        img_channels: Channels of the image.
        is_last: Whether it is the block of the training resolution.
        cfg: Published configuration, see `published_config`.
        conv_clamp: Clamp of the layers' outputs; None = no clamp.
        use_fp16: Whether the block runs in float16 where the device gains from it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        cfg: Mapping[str, Any],
        conv_clamp: float | None = None,
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        settings = published_settings(cfg)
        first = settings.first_lattice
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.w_dim = w_dim
        self.resolution = max(resolution, first)
        self.input_resolution = first
        self.up = 2 if resolution > first else 1
        self.img_channels = img_channels
        self.is_last = is_last
        self.architecture = "skip"
        self.use_fp16 = use_fp16
        self.channels_last = False
        self.conv_clamp = conv_clamp
        num_extra = settings.extra_convs.get(self.resolution, 0)
        self.num_conv = (1 if in_channels == 0 else 2) + num_extra
        self.num_torgb = 1
        # Never used; part of the published state_dict.
        self.register_buffer("resample_filter", resample_taps(_RESAMPLE_FILTER))

        def layer(channels: int, norm: bool) -> PublishedLayer:
            return PublishedLayer(
                channels,
                out_channels,
                w_dim,
                self.resolution,
                rank=settings.rank,
                fmm_activation=settings.fmm_activation,
                instance_norm=settings.instance_norm and norm,
                conv_clamp=conv_clamp,
            )

        if in_channels == 0:
            fuser = _make_fuser(settings, self.resolution, w_dim, is_input=True)
            self.input = PublishedInput(PublishedCoordsInput(fuser))
            self.conv1 = layer(fuser.total_dim, norm=False)
        else:
            has_fuser = not settings.per_resolution or self.resolution > first
            self.coord_fuser = (
                _make_fuser(settings, self.resolution, w_dim, is_input=False) if has_fuser else None
            )
            coord_channels = self.coord_fuser.total_dim if has_fuser else 0
            self.conv0 = layer(in_channels + coord_channels, norm=False)
            self.conv1 = layer(out_channels, norm=True)
        extra = [layer(out_channels, norm=True) for _ in range(num_extra)]
        self.extra_convs = nn.ModuleList(extra) if extra else None
        self.torgb = PublishedToRGB(out_channels, img_channels, w_dim, conv_clamp)

    def layers(self) -> list[PublishedLayer]:
        """The layers in the order in which they run."""
        first = [] if self.in_channels == 0 else [self.conv0]
        return [*first, self.conv1, *(self.extra_convs or [])]

    def fuser(self) -> PublishedCoordFuser | None:
        """The coordinate features of the first layer, if it has any."""
        return self.input.input.coord_fuser if self.in_channels == 0 else self.coord_fuser

    def compose(self, ws: Tensor) -> PublishedBlockWeights:
        """Composes the block's weights.

        Args:
            ws: [N, num_conv + num_torgb, w_dim].
        """
        fuser = self.fuser()
        composed, rgb, _ = block_weights(ws, self.layers(), self.torgb)
        layers = list(composed)
        predicted = None
        if fuser is not None:
            predicted = fuser.predict(ws[:, 0])
            features, coords = layers[0].split([self.in_channels, fuser.total_dim], dim=2)
            layers[0] = torch.cat([features, fuser.arrange(coords)], dim=2)
        return PublishedBlockWeights(tuple(layers), rgb, predicted, (None,) * len(layers))

    def forward(
        self,
        weights: PublishedBlockWeights,
        x: Tensor | None,
        img: Tensor | None,
        level: GridLevel | PointLevel,
        force_fp32: bool = False,
        dtype: torch.dtype | None = None,
        want_features: bool = True,
    ) -> tuple[Tensor | None, Tensor, PublishedBlockWeights]:
        """Evaluates the block at the points of a level.

        Args:
            weights: Result of `compose`. Where its scales are missing the grid must be the
                training grid, on which they are then measured.
            x: Features of the block below [N, I, h, w]; None for the first block.
            img: Image of the block below [N, C, h, w], float32; None for the first block.
            level: H x W points and, if `up` is 2, their taps into the block below (P single
                points: H = 1).
            force_fp32: Run in float32; wins over `dtype`.
            dtype: Precision of this call; None = the block's own.
            want_features: Whether the features are wanted; the last block's are not.

        Returns:
            Features [N, O, H, W] (None unless wanted), image [N, C, H, W] (float32), and the
            weights with scales.
        """
        device, stored = weights.rgb.device, self.torgb.bias.dtype
        dtype = block_dtype(dtype, self.use_fp16, stored, device, force_fp32)
        taps = level.taps(device) if self.up == 2 else None
        x = None if x is None else x.to(dtype)
        fuser = self.fuser()
        coords = None if fuser is None else fuser(level, weights.predicted, dtype)
        scales: list[Tensor | None] = []
        pending: list[tuple[Tensor, Tensor]] = []
        for layer, weight, scale in zip(self.layers(), weights.layers, weights.scales):
            if layer.instance_norm and scale is None:
                # Measured on the grid, which the layers below have to draw first.
                if img is not None and taps is not None:
                    img = lattice_upsample(img, *taps)
                for matrix, bias in pending:
                    x = inr_layer(
                        matrix,
                        x,
                        bias,
                        taps=taps,
                        coords=coords,
                        act="lrelu",
                        clamp=self.conv_clamp,
                    )
                    taps = coords = None
                pending = []
                scale = _inverse_std(x, stored)
            scales.append(scale)
            if layer.instance_norm:
                weight = weight * scale[:, None, :]
            pending.append((weight.to(dtype), layer.bias.to(dtype)))
        x, img = inr_block(
            *zip(*pending),
            weights.rgb.to(dtype),
            self.torgb.bias,
            x,
            img,
            taps=taps,
            coords=coords,
            act="lrelu",
            clamp=self.conv_clamp,
            want_features=want_features,
        )
        return x, img, weights._replace(scales=tuple(scales))


def _make_fuser(
    settings: PublishedSettings, resolution: int, w_dim: int, is_input: bool
) -> PublishedCoordFuser:
    return PublishedCoordFuser(resolution, w_dim, **asdict(settings.fuser(resolution, is_input)))


def _inverse_std(x: Tensor, dtype: torch.dtype) -> Tensor:
    """1 / (standard deviation over the grid + 1e-8) per image and channel, [N, C]."""
    x = x.flatten(2).to(dtype)
    if x.device.type != "cpu":
        return 1 / (x.std(dim=2) + _INSTANCE_NORM_EPS)
    # Five times faster there: two passes over a few channels at a time, which stay in the cache.
    norms = [
        torch.linalg.vector_norm(part - part.mean(dim=2, keepdim=True), dim=2)
        for part in x.split(_NORM_CHANNELS, dim=1)
    ]
    return 1 / (torch.cat(norms, dim=1) / (x.shape[2] - 1) ** 0.5 + _INSTANCE_NORM_EPS)
