"""StyleGAN2's modulated convolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch

from networks.layers import check_shape
from ops.conv2d_resample import conv2d_resample
from ops.fma import fma


def _modconv_half_range(
    weight: torch.Tensor, styles: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale weight and styles so that sums over inputs stay inside float16's range.

    Demodulation divides by the norm of their product, so the scale has no effect on the result.
    """
    fan_in = weight[0].numel()
    peak = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
    return weight / (peak * math.sqrt(fan_in)), styles / styles.abs().amax(dim=1, keepdim=True)


def _modconv_demodulation(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(sum over inputs and taps of (w s)^2 + 1e-8), [N, O].

    The style does not depend on the tap, so the sum is a product of two small matrices.
    """
    energy = weight.square().sum(dim=(2, 3))
    return (styles.square() @ energy.t() + 1e-8).rsqrt()


def _modconv_pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
) -> torch.Tensor:
    """1x1 kernels: one matrix product per sample, several times faster than a convolution."""
    w = weight[None, :, :, 0, 0] * styles[:, None, :]
    if scale is not None:
        w = w * scale[:, :, None]
    y = torch.bmm(w.to(x.dtype), x.flatten(2)).unflatten(2, x.shape[2:])
    return y if noise is None else y + noise


def _modconv_grouped(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
    conv: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """One weight per sample; the samples become the groups of a single convolution."""
    batch = x.shape[0]
    w = weight[None] * styles[:, None, :, None, None]
    if scale is not None:
        w = w * scale[:, :, None, None, None]
    y = conv(x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1).to(x.dtype), groups=batch)
    y = y.reshape(batch, -1, *y.shape[2:])
    return y if noise is None else y + noise


def _modconv_shared(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
    conv: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """One weight for all samples; the features are scaled before and after."""
    y = conv(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype))
    if scale is None:
        return y if noise is None else y + noise
    scale = scale.to(x.dtype)[:, :, None, None]
    return y * scale if noise is None else fma(y, scale, noise)


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> torch.Tensor:
    """Convolution whose weights are scaled per sample (Karras et al. 2020, section 2.2).

    w'[n,o,i] = s[n,i] w[o,i], demodulated: w''[n,o] = w'[n,o] / sqrt(sum w'[n,o]^2 + 1e-8).

    Args:
        x: [N, I, H, W], any floating point dtype.
        weight: [O, I, kh, kw], no equalised gain.
        styles: [N, I], scale of every input channel.
        noise: Added to the result, broadcast to [N, O, H', W']; None = nothing.
        up: Integer upsampling factor, through `resample_filter`.
        down: Integer downsampling factor, through `resample_filter`.
        padding: Padding of the upsampled image, as in `conv2d_resample`.
        resample_filter: From `setup_filter`; None = no low-pass filter.
        demodulate: Divide by the norm of the scaled weights.
        flip_weight: True = correlation (PyTorch's convention), False = true convolution.
        fused_modconv: True = scale the weights and run one grouped convolution; False = scale
            the features before and after one shared convolution. Equal up to rounding. A 1x1
            kernel without resampling or padding is a matrix product per sample either way.

    Returns:
        [N, O, H', W'] in x's dtype.

    Raises:
        ValueError: Shapes do not fit.
    """
    in_channels = weight.shape[1]
    check_shape(x, (None, in_channels, None, None), "x")
    check_shape(styles, (x.shape[0], in_channels), "styles")
    if demodulate and x.dtype == torch.float16:
        weight, styles = _modconv_half_range(weight, styles)
    scale = _modconv_demodulation(weight, styles) if demodulate else None
    noise = None if noise is None else noise.to(x.dtype)
    if weight[0, 0].numel() == 1 and up == down == 1 and padding == 0:
        return _modconv_pointwise(x, weight, styles, scale, noise)
    conv = partial(
        conv2d_resample,
        f=resample_filter,
        up=up,
        down=down,
        padding=padding,
        flip_weight=flip_weight,
    )
    if fused_modconv:
        return _modconv_grouped(x, weight, styles, scale, noise, conv)
    return _modconv_shared(x, weight, styles, scale, noise, conv)
