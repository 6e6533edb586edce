"""Building blocks shared by all networks: normalisation, dense and convolution layers.

Weights are stored with unit variance and scaled when used ("equalised learning rate", Karras et
al. 2018, section 4.1), so one Adam step size suits every layer. Tensors are NCHW.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from ops.affine import affine
from ops.bias_act import activation_funcs, bias_act
from ops.conv_layer import conv_layer
from ops.upfirdn2d import setup_filter


def resolution_log2(img_resolution: int) -> int:
    """Return log2 of an image size.

    Args:
        img_resolution: Side of the square image in pixels.

    Raises:
        ValueError: Not a power of two, or smaller than 4.
    """
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ValueError(
            f"img_resolution must be a power of two and at least 4, not {img_resolution}."
        )
    return int(img_resolution).bit_length() - 1


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Width of the layers that work at `resolution`: min(channel_base // resolution, channel_max).

    Raises:
        ValueError: Nothing would be left.
    """
    channels = min(int(channel_base) // resolution, int(channel_max))
    if channels < 1:
        raise ValueError(
            f"channel_base {channel_base} and channel_max {channel_max} leave no channels "
            f"at resolution {resolution}; channel_base must be at least {resolution}."
        )
    return channels


def first_fp16_resolution(img_resolution: int, num_fp16_res: int) -> int:
    """Lowest block resolution that computes in float16.

    The `num_fp16_res` highest resolutions do (0 = none), but never one below 8.
    """
    return max(2 ** (resolution_log2(img_resolution) + 1 - num_fp16_res), 8)


ARCHITECTURES = ("orig", "skip", "resnet")
"""How a block and the image are connected, in generator and discriminator."""


def check_choice(value: str, choices: Sequence[str], name: str) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")


def check_shape(x: torch.Tensor, shape: Sequence[int | None], name: str) -> None:
    """Raise ValueError unless `x` has this shape; None stands for any size."""
    expected = tuple(shape)
    if x.ndim != len(expected) or any(b is not None and a != b for a, b in zip(x.shape, expected)):
        sizes = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"{name} must have shape [{sizes}], not {list(x.shape)}.")


def compute_dtype(
    wanted: torch.dtype, stored: torch.dtype, device: torch.device, force_fp32: bool = False
) -> torch.dtype:
    """Precision in which a block computes.

    Neither CPUs nor Apple's GPUs (MPS) gain from float16; there it is not used.

    Args:
        wanted: What the block is set to.
        stored: dtype of its parameters.
        device: Where it computes.
        force_fp32: Take the parameters' own precision.
    """
    if force_fp32 or (wanted == torch.float16 and device.type in ("cpu", "mps")):
        return stored
    return wanted


def block_dtype(
    dtype: torch.dtype | None,
    use_fp16: bool,
    stored: torch.dtype,
    device: torch.device,
    force_fp32: bool = False,
) -> torch.dtype:
    """Precision of one call of a generator's block, see `compute_dtype`.

    `dtype` is what the caller asks for (None = float16 if use_fp16, else stored); force_fp32 wins.

    Raises:
        TypeError: If dtype is nothing that can be computed in.
    """
    if dtype is None:
        return compute_dtype(torch.float16 if use_fp16 else stored, stored, device, force_fp32)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise TypeError(f"dtype must be a torch dtype of at least 16 bits, not {dtype!r}")
    if dtype == torch.float16 and device.type == "cpu" and not force_fp32:
        warnings.warn(f"float16 is not for CPUs; this is computed in {stored}.", stacklevel=1)
        dtype = stored
    return stored if force_fp32 else dtype


def resample_taps(taps: Sequence[float] | None) -> torch.Tensor:
    """Filter from `setup_filter` on the current default device, where new parameters are made."""
    return setup_filter(taps, device=torch.empty(0).device)


def conv_weight(
    out_channels: int, in_channels: int, kernel_size: int, channels_last: bool = False
) -> torch.Tensor:
    """Unit normal convolution weights [O, I, k, k] in the wanted memory format."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
    return weight.to(memory_format=layout)


class FullyConnectedLayer(nn.Module):
    """act(x W^T + b) with W = weight * lr_multiplier / sqrt(in), b = bias * lr_multiplier.

    Args:
        in_features: Features of the input.
        out_features: Features of the output.
        bias: Add a learned bias.
        activation: A name in `activation_funcs`; its default gain is applied.
        lr_multiplier: Learning rate of this layer relative to the optimizer's.
        bias_init: Initial bias as used, that is after multiplication.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1,
        bias_init: float = 0,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init))) if bias else None
        # Python floats: NumPy scalars in a pickle cannot be read across NumPy 1 and 2.
        self.weight_gain = float(lr_multiplier) / math.sqrt(in_features)
        self.bias_gain = float(lr_multiplier)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_features] to [N, out_features] in x's dtype."""
        weight, bias = self.weight.to(x.dtype), self.bias
        if bias is not None:
            bias = bias.to(x.dtype)
            if self.bias_gain != 1:
                bias = bias * self.bias_gain
        if self.activation == "linear":
            return affine(x, weight, bias, self.weight_gain)
        return bias_act(affine(x, weight, None, self.weight_gain), bias, act=self.activation)

    def extra_repr(self) -> str:
        """Sizes and activation, for print(module)."""
        return f"{self.in_features}, {self.out_features}, activation={self.activation!r}"


class Conv2dLayer(nn.Module):
    """Convolution with optional FIR resampling, bias, activation, gain and clamp.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Width and height of the kernel, odd.
        bias: Add a learned bias per channel.
        activation: A name in `activation_funcs`.
        up: Integer upsampling factor.
        down: Integer downsampling factor.
        resample_filter: Low-pass taps used when resampling; None = no filter.
        conv_clamp: Clamp the output to +-conv_clamp * gain; None = no clamp.
        channels_last: Store the weight in channels_last memory format.
        trainable: False = weight and bias are buffers (Freeze-D, Mo et al. 2020).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] | None = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        channels_last: bool = False,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = float(activation_funcs[activation].def_gain)
        self.register_buffer("resample_filter", resample_taps(resample_filter))

        weight = conv_weight(out_channels, in_channels, kernel_size, channels_last)
        offset = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if offset is None else nn.Parameter(offset)
        else:
            self.register_buffer("weight", weight)
            if offset is None:
                self.bias = None
            else:
                self.register_buffer("bias", offset)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        """Map [N, I, H, W] to [N, O, H up / down, W up / down] in x's dtype.

        Args:
            x: Features.
            gain: Scales the output and the clamp.
        """
        # An upsampling layer is a true convolution, any other one a correlation.
        return conv_layer(
            x,
            self.weight,
            self.bias,
            self.resample_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
            act=self.activation,
            gain=self.act_gain * gain,
            clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
            weight_gain=self.weight_gain,
        )

    def extra_repr(self) -> str:
        """Sizes, resampling and activation, for print(module)."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.weight.shape[-1]}, "
            f"up={self.up}, down={self.down}, activation={self.activation!r}"
        )
