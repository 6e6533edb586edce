"""StyleGAN2's discriminator (Karras et al. 2020, section 4.2, figure 7), all architectures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from networks.layers import (
    ARCHITECTURES,
    Conv2dLayer,
    FullyConnectedLayer,
    channels_at,
    check_choice,
    check_shape,
    compute_dtype,
    resample_taps,
)
from networks.mapping import MappingNetwork
from networks.minibatch_std import MinibatchStdLayer
from networks.shapes import checked_img_shape, halving_shapes, num_highest, shape_problem
from ops.upfirdn2d import downsample2d


class DiscriminatorBlock(nn.Module):
    """Two convolutions that halve the resolution; reads the image where one arrives.

    Args:
        in_channels: Channels of the features that arrive; 0 = first block, none do.
        tmp_channels: Width of the block.
        out_channels: Channels of the features that leave.
        resolution: Longer side of the input in pixels.
        img_channels: Channels of the image.
        first_layer_idx: Number of layers before this block, for freezing.
        architecture: "orig", "skip" or "resnet".
        activation: Of every layer but the residual shortcut.
        resample_filter: Low-pass taps used when downsampling.
        conv_clamp: Clamp of the activations; None = no clamp.
        use_fp16: Compute in float16 (off the CPU).
        fp16_channels_last: With float16: use the channels_last memory format.
        freeze_layers: Layers with an index below this one are not trained.
        size: (height, width) of the input; None = square.
    """

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        resolution: int,
        img_channels: int,
        first_layer_idx: int,
        architecture: str = "resnet",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        freeze_layers: int = 0,
        size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_choice(architecture, ARCHITECTURES, "architecture")
        if in_channels not in (0, tmp_channels):
            raise ValueError(
                f"in_channels must be 0 or tmp_channels {tmp_channels}, not {in_channels}."
            )
        self.in_channels = in_channels
        self.resolution = resolution
        self.size = tuple(size or (resolution, resolution))
        self.img_channels = img_channels
        self.first_layer_idx = first_layer_idx
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", resample_taps(resample_filter))

        self.num_layers = 0

        def layer(inputs: int, outputs: int, kernel_size: int, **options: Any) -> Conv2dLayer:
            index = first_layer_idx + self.num_layers
            self.num_layers += 1
            return Conv2dLayer(
                inputs,
                outputs,
                kernel_size,
                resample_filter=resample_filter,
                channels_last=self.channels_last,
                trainable=index >= freeze_layers,
                **options,
            )

        active = {"activation": activation, "conv_clamp": conv_clamp}
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = layer(img_channels, tmp_channels, 1, **active)
        self.conv0 = layer(tmp_channels, tmp_channels, 3, **active)
        self.conv1 = layer(tmp_channels, out_channels, 3, down=2, **active)
        if architecture == "resnet":
            self.skip = layer(tmp_channels, out_channels, 1, bias=False, down=2)

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, force_fp32: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Halve the resolution.

        Args:
            x: [N, in_channels, H, W]; None for the first block.
            img: [N, img_channels, H, W] where the block reads it, else passed through.
            force_fp32: Compute in float32 also if the block is set to float16.

        Returns:
            Features [N, out_channels, H/2, W/2] and the image for the next block: downsampled
            for "skip", else None once it has been read.

        Raises:
            ValueError: Wrong shapes.
        """
        stored = self.conv0.weight.dtype
        source = img if x is None else x
        if source is None:
            raise ValueError("x and img are both None; the block needs one of them.")
        wanted = torch.float16 if self.use_fp16 else stored
        dtype = compute_dtype(wanted, stored, source.device, force_fp32)
        half = self.channels_last and dtype == torch.float16
        layout = torch.channels_last if half else torch.contiguous_format

        if self.in_channels > 0:
            if x is None:
                raise ValueError(f"x is None, but this block needs {self.in_channels} channels.")
            check_shape(x, (None, self.in_channels, *self.size), "x")
            x = x.to(dtype=dtype, memory_format=layout)
        if self.in_channels == 0 or self.architecture == "skip":
            if img is None:
                raise ValueError("img is None, but this block reads the image.")
            check_shape(img, (None, self.img_channels, *self.size), "img")
            y = self.fromrgb(img.to(dtype=dtype, memory_format=layout))
            x = y if self.in_channels == 0 else x + y
            skip = self.architecture == "skip"
            img = downsample2d(img, self.resample_filter) if skip else None

        if self.architecture == "resnet":
            # Half of the power from each branch keeps the variance of their sum.
            shortcut = self.skip(x, gain=math.sqrt(0.5))
            return shortcut + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class DiscriminatorEpilogue(nn.Module):
    """From the last features to logits: minibatch deviation, one convolution, two dense layers.

    Args:
        in_channels: Channels of the features.
        cmap_dim: Length of the mapped label; 0 = unconditional.
        resolution: Longer side of the features in pixels.
        img_channels: Channels of the image ("skip" only).
        architecture: "orig", "skip" (reads the image once more) or "resnet".
        mbstd_group_size: Samples per group; None = the whole batch.
        mbstd_num_channels: Channels of minibatch deviation; 0 = none.
        activation: Of every layer but the last.
        conv_clamp: Clamp of the convolution; None = no clamp.
        size: (height, width) of the features; None = square.
    """

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
        size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_choice(architecture, ARCHITECTURES, "architecture")
        self.in_channels = in_channels
        self.cmap_dim = cmap_dim
        self.resolution = resolution
        self.size = tuple(size or (resolution, resolution))
        self.img_channels = img_channels
        self.architecture = architecture

        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation=activation)
        self.mbstd = None
        if mbstd_num_channels > 0:
            self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels)
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels,
            in_channels,
            3,
            activation=activation,
            conv_clamp=conv_clamp,
        )
        self.fc = FullyConnectedLayer(
            in_channels * math.prod(self.size), in_channels, activation=activation
        )
        self.out = FullyConnectedLayer(in_channels, cmap_dim if cmap_dim > 0 else 1)

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        cmap: torch.Tensor | None,
        force_fp32: bool = False,
    ) -> torch.Tensor:
        """Compute the logits, always in the parameters' precision (float32).

        Args:
            x: [N, in_channels, H, W]; None = the image alone ("skip").
            img: [N, img_channels, H, W]; read by "skip" only.
            cmap: [N, cmap_dim]; read if cmap_dim is positive.
            force_fp32: Accepted for a uniform call; changes nothing.

        Returns:
            [N, 1]; with labels the projection <out(x), cmap> / sqrt(cmap_dim) (Miyato and Koyama
            2018).
        """
        dtype = self.conv.weight.dtype
        if x is not None:
            check_shape(x, (None, self.in_channels, *self.size), "x")
            x = x.to(dtype=dtype, memory_format=torch.contiguous_format)
        if self.architecture == "skip":
            if img is None:
                raise ValueError("img is None, but architecture 'skip' reads the image.")
            check_shape(img, (None, self.img_channels, *self.size), "img")
            y = self.fromrgb(img.to(dtype=dtype, memory_format=torch.contiguous_format))
            x = y if x is None else x + y
        if x is None:
            raise ValueError(f"x is None, but the epilogue needs {self.in_channels} channels.")
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if self.cmap_dim == 0:
            return x
        if cmap is None:
            raise ValueError(f"cmap is None, but the epilogue needs [N, {self.cmap_dim}].")
        check_shape(cmap, (x.shape[0], self.cmap_dim), "cmap")
        return (x * cmap.to(dtype)).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)


class Discriminator(nn.Module):
    """Blocks `b{R}` ... `b8`, then the epilogue `b4`; conditional through projection.

    Every block halves both sides, as `networks.shapes.halving_shapes` says. Blocks are named by
    the longer side r of their input; the epilogue is `b4` whatever is left for it, 4 to 7 pixels
    along the shorter side.

    Args:
        c_dim: Length of the label; 0 = unconditional.
        img_resolution: max(H, W) of the image in pixels.
        img_channels: Channels of the image.
        architecture: "orig", "skip" or "resnet".
        channel_base: Width at resolution r is min(channel_base // r, channel_max).
        channel_max: See channel_base.
        num_fp16_res: So many of the highest resolutions compute in float16; 0 = none.
        conv_clamp: Clamp of the activations; None = no clamp.
        cmap_dim: Length of the mapped label; None = width of the epilogue.
        block_kwargs: Further arguments of `DiscriminatorBlock`.
        mapping_kwargs: Further arguments of `MappingNetwork` (conditional only).
        epilogue_kwargs: Further arguments of `DiscriminatorEpilogue`.
        img_shape: (C, H, W); None = square.

    Raises:
        ValueError: An impossible architecture, or a size that cannot be halved down to 4 to 7
            pixels along the shorter side (see `networks.shapes.shape_problem`).
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
        img_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_choice(architecture, ARCHITECTURES, "architecture")
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_resolution_log2 = (img_resolution - 1).bit_length()  # rounded up
        self.img_channels = img_channels
        self.img_shape = checked_img_shape(img_shape, img_resolution, img_channels)
        problem = shape_problem(*self.img_shape[1:])
        if problem is not None:
            raise ValueError(f"No discriminator for images of this size: {problem}.")
        sizes = halving_shapes(*self.img_shape[1:])
        widths = [channels_at(max(size), channel_base, channel_max) for size in sizes]
        self.block_resolutions = [max(size) for size in sizes[:-1]]
        in_half = num_highest(self.block_resolutions, num_fp16_res)

        num_layers = 0
        for index, resolution in enumerate(self.block_resolutions):
            block = DiscriminatorBlock(
                widths[index] if index > 0 else 0,
                widths[index],
                widths[index + 1],
                resolution=resolution,
                img_channels=img_channels,
                first_layer_idx=num_layers,
                architecture=architecture,
                conv_clamp=conv_clamp,
                use_fp16=resolution in in_half,
                size=sizes[index],
                **(block_kwargs or {}),
            )
            self.add_module(f"b{resolution}", block)
            num_layers += block.num_layers
        cmap_dim = (widths[-1] if cmap_dim is None else cmap_dim) if c_dim > 0 else 0
        if c_dim > 0:
            self.mapping = MappingNetwork(
                0, c_dim, cmap_dim, num_ws=None, w_avg_beta=None, **(mapping_kwargs or {})
            )
        self.b4 = DiscriminatorEpilogue(
            widths[-1],
            cmap_dim=cmap_dim,
            resolution=max(sizes[-1]),
            size=sizes[-1],
            img_channels=img_channels,
            # An image of 4 pixels meets no block, so the epilogue itself has to read it.
            architecture=architecture if self.block_resolutions else "skip",
            conv_clamp=conv_clamp,
            **(epilogue_kwargs or {}),
        )

    def forward(
        self,
        img: torch.Tensor,
        c: torch.Tensor | None,
        update_emas: bool = False,
        force_fp32: bool = False,
    ) -> torch.Tensor:
        """Judge images.

        Args:
            img: [N, img_channels, H, W], about [-1, 1].
            c: [N, c_dim]; ignored if c_dim is 0.
            update_emas: Accepted for callers of StyleGAN3; there is nothing to update.
            force_fp32: Compute in float32 throughout.

        Returns:
            Logits [N, 1], float32; positive = looks real.

        Raises:
            ValueError: Wrong shapes, or a batch that the minibatch groups do not divide.
        """
        check_shape(img, (None, *self.img_shape), "img")
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        x, image = None, img.to(self.b4.conv.weight.dtype)
        for block in self._blocks():
            x, image = block(x, image, force_fp32=force_fp32)
        return self.b4(x, image, cmap)

    def _blocks(self) -> Iterator[DiscriminatorBlock]:
        for resolution in self.block_resolutions:
            yield getattr(self, f"b{resolution}")
