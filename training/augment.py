"""Adaptive augmentation: random, differentiable image transforms applied with probability p.

The sixteen transforms and their distributions follow Karras et al. 2020, "Training Generative
Adversarial Networks with Limited Data" (arXiv:2006.06676), appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ops.upfirdn2d import setup_filter
from training.augment_transforms import (
    apply_color,
    color_transform,
    cut_out,
    filter_separable,
    matrix,
    rotate2d,
    rotate2d_inv,
    rotate3d,
    scale2d,
    scale2d_inv,
    scale3d,
    translate2d,
    translate2d_inv,
    translate3d,
    wavelet_filter_bank,
)
from training.augment_warp import warp_affine
from training.wavelets import wavelets

__all__ = [
    "AugmentPipe",
    "matrix",
    "rotate2d",
    "rotate2d_inv",
    "rotate3d",
    "scale2d",
    "scale2d_inv",
    "scale3d",
    "translate2d",
    "translate2d_inv",
    "translate3d",
    "wavelets",
]

# Power of natural images (1/f) expected in the four octave bands of the filter, lowest first.
_AUG_BAND_POWER = np.array([10, 1, 1, 1]) / 13


class AugmentPipe(nn.Module):
    """Random transforms of images, each with its own probability, drawn per image.

    The probability of a transform is its multiplier times the buffer `p`; a multiplier of 0 leaves
    the transform out. Everything is differentiable with respect to the images, twice. Random
    numbers come from torch's generator of the images' device, always the same amount in the same
    order for given multipliers, except that on the CPU p == 0 returns the input itself and draws
    nothing.

    Buffers: `p` [], overall probability (starts at 1, set it in place); `Hz_geom` [12], low-pass
    filter of the geometric transforms; `Hz_fbank` [4, 43], octave bands of the image filter,
    lowest first.

    Args:
        xflip: Multiplier of mirroring left and right.
        rotate90: Multiplier of turning by a multiple of 90 degrees.
        xint: Multiplier of shifts by whole pixels.
        xint_max: Largest such shift, as a fraction of the image size.
        scale: Multiplier of isotropic scaling by 2^N(0, scale_std^2).
        rotate: Multiplier of turning by U(-pi, pi) rotate_max, once before and once after `aniso`.
        aniso: Multiplier of scaling x by s = 2^N(0, aniso_std^2) and y by 1/s.
        xfrac: Multiplier of shifts by N(0, xfrac_std^2) of the image size.
        scale_std: See scale; log2 units.
        rotate_max: See rotate; 1 = every angle.
        aniso_std: See aniso; log2 units.
        xfrac_std: See xfrac.
        brightness: Multiplier of adding N(0, brightness_std^2).
        contrast: Multiplier of multiplying by 2^N(0, contrast_std^2).
        lumaflip: Multiplier of negating the grey part with probability 1/2.
        hue: Multiplier of turning by U(-pi, pi) hue_max about the grey axis.
        saturation: Multiplier of scaling the chroma by 2^N(0, saturation_std^2).
        brightness_std: See brightness; the image range is [-1, 1].
        contrast_std: See contrast; log2 units.
        hue_max: See hue; 1 = every angle.
        saturation_std: See saturation; log2 units.
        imgfilter: Multiplier of scaling each octave band by 2^N(0, imgfilter_std^2).
        imgfilter_bands: Further probability factor of each of the four bands, lowest first.
        imgfilter_std: See imgfilter; log2 units.
        noise: Multiplier of adding white noise of standard deviation |N(0, noise_std^2)|.
        cutout: Multiplier of blanking a rectangle of cutout_size times the image size.
        noise_std: See noise; the image range is [-1, 1].
        cutout_size: See cutout.
    """

    def __init__(
        self,
        xflip: float = 0,
        rotate90: float = 0,
        xint: float = 0,
        xint_max: float = 0.125,
        scale: float = 0,
        rotate: float = 0,
        aniso: float = 0,
        xfrac: float = 0,
        scale_std: float = 0.2,
        rotate_max: float = 1,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,
        hue: float = 0,
        saturation: float = 0,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1,
        saturation_std: float = 1,
        imgfilter: float = 0,
        imgfilter_bands: Sequence[float] = (1, 1, 1, 1),
        imgfilter_std: float = 1,
        noise: float = 0,
        cutout: float = 0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
    ) -> None:
        super().__init__()
        self.register_buffer("p", torch.ones([]))

        self.xflip = float(xflip)
        self.rotate90 = float(rotate90)
        self.xint = float(xint)
        self.xint_max = float(xint_max)

        self.scale = float(scale)
        self.rotate = float(rotate)
        self.aniso = float(aniso)
        self.xfrac = float(xfrac)
        self.scale_std = float(scale_std)
        self.rotate_max = float(rotate_max)
        self.aniso_std = float(aniso_std)
        self.xfrac_std = float(xfrac_std)

        self.brightness = float(brightness)
        self.contrast = float(contrast)
        self.lumaflip = float(lumaflip)
        self.hue = float(hue)
        self.saturation = float(saturation)
        self.brightness_std = float(brightness_std)
        self.contrast_std = float(contrast_std)
        self.hue_max = float(hue_max)
        self.saturation_std = float(saturation_std)

        self.imgfilter = float(imgfilter)
        self.imgfilter_bands = [float(band) for band in imgfilter_bands]
        self.imgfilter_std = float(imgfilter_std)
        if len(self.imgfilter_bands) != len(_AUG_BAND_POWER):
            raise ValueError(f"imgfilter_bands needs 4 numbers, got {self.imgfilter_bands}")

        self.noise = float(noise)
        self.cutout = float(cutout)
        self.noise_std = float(noise_std)
        self.cutout_size = float(cutout_size)

        self.register_buffer("Hz_geom", setup_filter(wavelets["sym6"]))
        bank = wavelet_filter_bank(wavelets["sym2"], bands=len(_AUG_BAND_POWER))
        self.register_buffer("Hz_fbank", torch.as_tensor(bank, dtype=torch.float32))

    def forward(
        self,
        images: torch.Tensor,  # [N, C, H, W]
        debug_percentile: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Transform a batch of images.

        Args:
            images: Floating point, about [-1, 1]. With a colour transform on: 1 (grey), 2 (grey
                and alpha), 3 (RGB) or 4 channels (RGB and alpha); alpha keeps its values.
            debug_percentile: None = random. Else every transform is applied, whatever p is, with
                its parameter at this quantile q of its distribution, except that normal variables
                take erfinv(2 q - 1) std (the true quantile has a further factor sqrt(2)) and the
                second rotation is left out, as it would usually undo the first.

        Returns:
            [N, C, H, W], dtype of images; the input itself if there is nothing to do.

        Raises:
            ValueError: images is no floating-point NCHW batch, or has an unsupported number of
                channels.
        """
        if images.ndim != 4 or not images.is_floating_point():
            shape = list(images.shape)
            raise ValueError(
                f"need a floating-point NCHW batch, got {images.dtype} of shape {shape}"
            )
        q = None if debug_percentile is None else float(debug_percentile)
        # Reading p from an accelerator would wait for it; there p = 0 is drawn like any other.
        if q is None and images.device.type == "cpu" and float(self.p) == 0:
            return images

        dtype = images.dtype
        x = images if dtype in (torch.float32, torch.float64) else images.float()
        geometry = self.xflip, self.rotate90, self.xint, self.scale, self.rotate, self.aniso
        color = self.brightness, self.contrast, self.lumaflip, self.hue, self.saturation
        if any(geometry) or self.xfrac:
            x = warp_affine(x, *self._draw_geometry(x, q), self.Hz_geom)
        if any(color):
            x = apply_color(x, *self._draw_color(x, q))
        if self.imgfilter:
            x = filter_separable(x, self._draw_filters(x, q))
        if self.noise:
            x = self._add_noise(x, q)
        if self.cutout:
            x = self._cut_out(x, q)
        return x.to(dtype)

    def _draw_geometry(
        self, images: torch.Tensor, q: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the map from output to input positions in pixels: linear [N, 2, 2], offset [N, 2].

        The image is mirrored, turned by a multiple of 90 degrees, shifted, scaled, turned,
        stretched, turned and shifted, in this order. Seen from the output every step is undone, so
        the inverses multiply from the right: with mirror F, rotations R and shifts t,

        linear = F R_90 2^-scale R_pre diag(2^-aniso, 2^aniso) R_post,
        offset = -F R_90 t_int - linear t_frac.
        """
        multipliers = [self.xflip, self.rotate90, self.xint, self.xint, self.xfrac, self.xfrac]
        multipliers += [self.scale, self.aniso, self.rotate, self.rotate]
        chance = self._chances(images, multipliers, q)
        # Two independent rotations, so that the chance of at least one is rotate * p.
        chance[8:] = 1 - (1 - chance[8:]).clamp(0, 1).sqrt()
        uniform, normal, gate = self._draw(images, chance, q)
        # One coin for both axes of a shift.
        gate[3], gate[5] = gate[2], gate[4]

        size = images.new_tensor([[images.shape[3]], [images.shape[2]]])
        mirror = 1 - 2 * (2 * uniform[0]).floor() * gate[0]
        quarter = (4 * uniform[1]).floor() * gate[1]
        shift_int = ((2 * uniform[2:4] - 1) * (self.xint_max * size)).round() * gate[2:4]
        shift_frac = normal[4:6] * (self.xfrac_std * size) * gate[4:6]
        shrink = torch.exp2(-self.scale_std * normal[6] * gate[6])
        squeeze = torch.exp2(-self.aniso_std * normal[7] * gate[7])
        turns = (2 * uniform[8:] - 1) * (math.pi * self.rotate_max) * gate[8:]
        if q is not None:
            turns[1] = 0

        # Cosine and sine of quarter turns are exact, so that an image without another rotation
        # stays aligned.
        cos = torch.cat([((quarter - 2).abs() - 1)[None], turns.cos()])
        sin = torch.cat([(1 - (quarter - 1).abs())[None], turns.sin()])
        rotations = matrix([cos, -sin], [sin, cos])
        first = rotations[0] * torch.stack([mirror, torch.ones_like(mirror)], dim=1)[:, :, None]
        stretch = torch.stack([shrink * squeeze, shrink / squeeze], dim=1)[:, None, :]
        linear = first @ (rotations[1] * stretch) @ rotations[2]
        shifts = torch.stack([shift_int.T, shift_frac.T], dim=2)
        offset = -(first @ shifts[:, :, :1] + linear @ shifts[:, :, 1:])[:, :, 0]
        return linear, offset

    def _draw_color(
        self, images: torch.Tensor, q: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw brightness, contrast, luma flip, hue and saturation, applied in this order.

        Only the brightness is not a function of rotations about the grey axis and of projections
        on it; what follows it multiplies it with the grey factor.

        Returns:
            M [N, 3, 3] and the offsets [N, 3, 1] of the colour map x -> M x + offset.
        """
        multipliers = [self.brightness, self.contrast, self.lumaflip, self.hue, self.saturation]
        uniform, normal, gate = self._draw(images, self._chances(images, multipliers, q), q)
        brightness = normal[0] * self.brightness_std * gate[0]
        contrast = torch.exp2(normal[1] * self.contrast_std * gate[1])
        lumaflip = 1 - 2 * (2 * uniform[2]).floor() * gate[2]
        hue = (2 * uniform[3] - 1) * (math.pi * self.hue_max) * gate[3]
        saturation = torch.exp2(normal[4] * self.saturation_std * gate[4])
        grey_gain = contrast * lumaflip
        return color_transform(grey_gain, contrast * saturation, hue, grey_gain * brightness)

    def _draw_filters(self, images: torch.Tensor, q: float | None) -> torch.Tensor:
        """Draw one symmetric filter per image, [N, taps].

        It scales the octave bands; each gain is made up for so that the expected power stays.
        """
        bands = len(self.imgfilter_bands)
        multipliers = [self.imgfilter * band for band in self.imgfilter_bands]
        chance = self._chances(images, multipliers, q)
        _, normal, gate = self._draw(images, chance, q)
        gain = torch.exp2(normal * self.imgfilter_std * gate)  # [bands, N]
        power = images.new_tensor(_AUG_BAND_POWER)
        total = torch.ones_like(gain)
        for band in range(bands):
            only = torch.ones_like(gain)
            only[band] = gain[band]
            total = total * only / (power @ only.square()).sqrt()
        return total.T @ self.Hz_fbank.to(images.dtype)

    def _add_noise(self, images: torch.Tensor, q: float | None) -> torch.Tensor:
        """Add white noise of a standard deviation drawn per image."""
        chance = self._chances(images, [self.noise], q)
        _, normal, gate = self._draw(images, chance, q)
        if q is not None:  # the quantile of |N(0, 1)|, without sqrt(2) like the others
            normal = torch.full_like(normal, q).erfinv()
        sigma = normal.abs() * self.noise_std * gate
        return images + torch.randn_like(images) * sigma[0, :, None, None, None]

    def _cut_out(self, images: torch.Tensor, q: float | None) -> torch.Tensor:
        """Blank a rectangle at a place drawn per image."""
        chance = self._chances(images, [self.cutout] * 2, q)
        uniform, _, gate = self._draw(images, chance, q)
        return cut_out(images, centre=uniform.T, size=self.cutout_size * gate[0])

    def _chances(
        self, images: torch.Tensor, multipliers: list[float], q: float | None
    ) -> torch.Tensor:
        """Probabilities [K] of K transforms; with a percentile q, 1 for each that is on."""
        factors = images.new_tensor(multipliers)
        return self.p.to(images.dtype) * factors if q is None else (factors != 0).to(images.dtype)

    def _draw(
        self, images: torch.Tensor, chance: torch.Tensor, q: float | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw a uniform and a normal variable and a coin for each of K parameters and N images.

        Each parameter uses one of the two variables; drawing all of them together costs less than
        the calls that single draws would take.

        Args:
            images: [N, C, H, W]; gives N, device and dtype.
            chance: [K], probability that a coin is 1.
            q: None = random, else the percentile that replaces every draw (see forward).

        Returns:
            uniform in [0, 1), normal with unit variance, coins in {0, 1}; each [K, N], dtype of
            images.
        """
        shape = [chance.shape[0], images.shape[0]]
        if q is not None:
            uniform = torch.full(shape, q, dtype=images.dtype, device=images.device)
            coin = (chance > 0).to(images.dtype)
            return uniform, (2 * uniform - 1).erfinv(), coin[:, None].expand(shape).clone()
        # Drawn in float32 so that a seed means the same in every precision.
        coin, uniform = torch.rand([2, *shape], device=images.device).to(images.dtype)
        normal = torch.randn(shape, device=images.device).to(images.dtype)
        return uniform, normal, (coin < chance[:, None]).to(images.dtype)
