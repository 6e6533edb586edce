"""StyleGAN2's synthesis network (Karras et al. 2020, figures 2 and 7), all architectures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from networks.layers import (
    ARCHITECTURES,
    Conv2dLayer,
    FullyConnectedLayer,
    block_dtype,
    channels_at,
    check_choice,
    check_shape,
    conv_weight,
    first_fp16_resolution,
    resample_taps,
    resolution_log2,
)
from networks.modulated_conv import modulated_conv2d
from ops.bias_act import activation_funcs, bias_act
from ops.upfirdn2d import upsample2d

_NOISE_MODES = ("random", "const", "none")


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        w_dim: Length of w.
        resolution: Side of the output in pixels.
        kernel_size: Width and height of the kernel, odd.
        up: Integer upsampling factor.
        use_noise: Add noise with a learned strength.
        activation: A name in `activation_funcs`.
        resample_filter: Low-pass taps used when upsampling.
        conv_clamp: Clamp the output to +-conv_clamp * gain; None = no clamp.
        channels_last: Store the weight in channels_last memory format.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.act_gain = float(activation_funcs[activation].def_gain)
        self.register_buffer("resample_filter", resample_taps(resample_filter))

        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(
            conv_weight(out_channels, in_channels, kernel_size, channels_last)
        )
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        noise_mode: str = "random",
        fused_modconv: bool = True,
        gain: float = 1,
    ) -> torch.Tensor:
        """Map [N, I, R / up, R / up] to [N, O, R, R] in x's dtype.

        Args:
            x: Features.
            w: [N, w_dim].
            noise_mode: "random" = new noise per sample, "const" = the stored noise, "none".
            fused_modconv: See `modulated_conv2d`.
            gain: Scales the output and the clamp.

        Raises:
            ValueError: Wrong shapes or an unknown noise mode.
        """
        check_choice(noise_mode, _NOISE_MODES, "noise_mode")
        size = self.resolution // self.up
        check_shape(x, (None, self.in_channels, size, size), "x")
        check_shape(w, (len(x), self.w_dim), "w")
        noise = None
        if self.use_noise and noise_mode == "random":
            noise = torch.randn(len(x), 1, self.resolution, self.resolution, device=x.device)
            noise = noise * self.noise_strength
        elif self.use_noise and noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        # An upsampling layer is a true convolution, any other one a correlation.
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise,
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            fused_modconv=fused_modconv,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        gain = self.act_gain * gain
        return bias_act(x, self.bias.to(x.dtype), act=self.activation, gain=gain, clamp=clamp)


class ToRGBLayer(nn.Module):
    """Features to image channels: modulated convolution without demodulation, bias, clamp.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of the image.
        w_dim: Length of w.
        kernel_size: Width and height of the kernel, odd.
        conv_clamp: Clamp of the output; None = no clamp.
        channels_last: Store the weight in channels_last memory format.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.w_dim = w_dim
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(
            conv_weight(out_channels, in_channels, kernel_size, channels_last)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: torch.Tensor, w: torch.Tensor, fused_modconv: bool = True) -> torch.Tensor:
        """Map features [N, I, H, W] and w [N, w_dim] to [N, O, H, W] in x's dtype."""
        check_shape(w, (x.shape[0], self.w_dim), "w")
        styles = self.affine(w) * self.weight_gain
        options = {"demodulate": False, "fused_modconv": fused_modconv}
        x = modulated_conv2d(x, self.weight, styles, padding=self.padding, **options)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: upsample, two convolutions, image channels.

    Args:
        in_channels: Channels of the features that arrive; 0 = none, start from a constant.
        out_channels: Channels of the features that leave.
        w_dim: Length of w.
        resolution: Side of the output in pixels.
        img_channels: Channels of the image.
        is_last: The last block always makes an image.
        architecture: "orig", "skip" (an image in every block, summed) or "resnet".
        resample_filter: Low-pass taps used when upsampling.
        conv_clamp: Clamp of the activations; None = no clamp.
        use_fp16: Compute in float16 (off the CPU).
        fp16_channels_last: With float16: use the channels_last memory format.
        **layer_kwargs: Further arguments of `SynthesisLayer`.

    Raises:
        ValueError: Unknown architecture.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        check_choice(architecture, ARCHITECTURES, "architecture")
        self.in_channels = in_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.is_last = is_last
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = 1 if is_last or architecture == "skip" else 0
        self.register_buffer("resample_filter", resample_taps(resample_filter))

        common = {"conv_clamp": conv_clamp, "channels_last": self.channels_last}
        layer = {"w_dim": w_dim, "resolution": resolution, **common, **layer_kwargs}
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, up=2, resample_filter=resample_filter, **layer
            )
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim=w_dim, **common)
        if in_channels > 0 and architecture == "resnet":
            options = {"resample_filter": resample_filter, "channels_last": self.channels_last}
            self.skip = Conv2dLayer(in_channels, out_channels, 1, bias=False, up=2, **options)

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        noise_mode: str = "random",
        dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Double the resolution (the first block: start from the constant).

        Args:
            x: [N, in_channels, R/2, R/2]; ignored by the first block.
            img: [N, img_channels, R/2, R/2] so far; None = nothing yet.
            ws: [N, num_conv + num_torgb, w_dim].
            force_fp32: Compute in float32; wins over `dtype`.
            fused_modconv: See `modulated_conv2d`; None = the faster way.
            noise_mode: See `SynthesisLayer`.
            dtype: Precision of this call; None = the block's own.

        Returns:
            Features [N, out_channels, R, R]; image [N, img_channels, R, R], always float32.

        Raises:
            ValueError: Wrong shapes or an unknown noise mode.
        """
        check_choice(noise_mode, _NOISE_MODES, "noise_mode")
        check_shape(ws, (None, self.num_conv + self.num_torgb, self.w_dim), "ws")
        stored = self.conv1.weight.dtype
        dtype = block_dtype(dtype, self.use_fp16, stored, ws.device, force_fp32)
        if fused_modconv is None:
            # Many groups are slow on a CPU and in float16, and their gradients everywhere.
            shared = self.training or ws.device.type == "cpu" or dtype == torch.float16
            fused_modconv = not shared or (ws.shape[0] == 1 and not self.training)
        w = iter(ws.unbind(dim=1))
        x = self._features(x, w, dtype, noise_mode=noise_mode, fused_modconv=fused_modconv)
        if img is not None:
            size = self.resolution // 2
            check_shape(img, (ws.shape[0], self.img_channels, size, size), "img")
            img = upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = self.torgb(x, next(w), fused_modconv=fused_modconv)
            y = y.to(dtype=stored, memory_format=torch.contiguous_format)
            img = y if img is None else img + y
        return x, img

    def _features(
        self, x: torch.Tensor | None, w: Iterator[torch.Tensor], dtype: torch.dtype, **options: Any
    ) -> torch.Tensor:
        """Run the convolutions, taking one [N, w_dim] from `w` for each."""
        half = self.channels_last and dtype == torch.float16
        layout = torch.channels_last if half else torch.contiguous_format
        style = next(w)
        batch = style.shape[0]
        if self.in_channels == 0:
            x = self.const.to(dtype).expand(batch, -1, -1, -1).contiguous(memory_format=layout)
            return self.conv1(x, style, **options)

        size = self.resolution // 2
        if x is None:
            raise ValueError(f"x is None, but this block needs {self.in_channels} channels.")
        check_shape(x, (batch, self.in_channels, size, size), "x")
        x = x.to(dtype=dtype, memory_format=layout)
        if self.architecture != "resnet":
            return self.conv1(self.conv0(x, style, **options), next(w), **options)
        # Half of the power from each branch keeps the variance of their sum.
        y = self.conv1(self.conv0(x, style, **options), next(w), gain=math.sqrt(0.5), **options)
        return self.skip(x, gain=math.sqrt(0.5)) + y


class SynthesisNetwork(nn.Module):
    """Blocks `b4` ... `b{R}`: from the w of every layer to an image.

    Args:
        w_dim: Length of w.
        img_resolution: Side of the image in pixels, a power of two, at least 4.
        img_channels: Channels of the image.
        channel_base: Width at resolution r is min(channel_base // r, channel_max).
        channel_max: See channel_base.
        num_fp16_res: So many of the highest resolutions compute in float16; 0 = none.
        **block_kwargs: Further arguments of `SynthesisBlock` and `SynthesisLayer`.

    Raises:
        ValueError: An impossible size or architecture.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_resolution_log2 = resolution_log2(img_resolution)
        self.img_channels = img_channels
        self.block_resolutions = [2**i for i in range(2, self.img_resolution_log2 + 1)]
        widths = {r: channels_at(r, channel_base, channel_max) for r in self.block_resolutions}
        first_half = first_fp16_resolution(img_resolution, num_fp16_res)

        for resolution in self.block_resolutions:
            block = SynthesisBlock(
                widths[resolution // 2] if resolution > 4 else 0,
                widths[resolution],
                w_dim=w_dim,
                resolution=resolution,
                img_channels=img_channels,
                is_last=resolution == img_resolution,
                use_fp16=resolution >= first_half,
                **block_kwargs,
            )
            self.add_module(f"b{resolution}", block)
        # The image layer of a block shares its w with the first layer of the next one.
        self.num_ws = sum(block.num_conv for block in self._blocks()) + 1

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        update_emas: bool = False,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Draw the image.

        Args:
            ws: [N, num_ws, w_dim], any real dtype.
            noise_mode: "random" = new noise per call, "const" = the stored noise, "none".
            force_fp32: Compute in float32 throughout; wins over `dtype`.
            fused_modconv: See `SynthesisBlock`.
            update_emas: Accepted for callers of StyleGAN3; there is nothing to update.
            dtype: Precision of all blocks; None = each block's own.

        Returns:
            [N, img_channels, R, R], float32, about [-1, 1].

        Raises:
            ValueError: Wrong shape or an unknown noise mode.
        """
        check_choice(noise_mode, _NOISE_MODES, "noise_mode")
        check_shape(ws, (None, self.num_ws, self.w_dim), "ws")
        ws = ws.to(self.b4.const.dtype)
        x = img = None
        first = 0
        for block in self._blocks():
            block_ws = ws.narrow(1, first, block.num_conv + block.num_torgb)
            x, img = block(x, img, block_ws, force_fp32, fused_modconv, noise_mode, dtype)
            first += block.num_conv
        return img

    def _blocks(self) -> Iterator[SynthesisBlock]:
        for resolution in self.block_resolutions:
            yield getattr(self, f"b{resolution}")
