"""Images as detectors take them: three channels in [0, 255]."""

from __future__ import annotations

import torch

from dnnlib import UserError


def to_rgb(images: torch.Tensor) -> torch.Tensor:
    """Convert images of any kind that networks and data sets have to RGB.

    Grey is repeated. RGBA is laid over white, real and generated images alike, because detectors
    know no transparency and invisible colours must not count: c * a + 255 * (1 - a), rounded for
    8-bit images.

    Args:
        images: [N, C, H, W] in [0, 255] with C = 1, 3 or 4; uint8 or floating point.

    Returns:
        [N, 3, H, W] of the same dtype.

    Raises:
        UserError: Another number of channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4):
        raise UserError(
            f"metrics look at images [N, C, H, W] of 1, 3 or 4 channels, not {list(images.shape)}"
        )
    if images.shape[1] == 1:
        return images.repeat([1, 3, 1, 1])
    if images.shape[1] == 3:
        return images
    colour, alpha = images[:, :3], images[:, 3:]
    if images.dtype == torch.uint8:
        colour, alpha = colour.to(torch.int32), alpha.to(torch.int32)
        return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
    alpha = alpha.clamp(0, 255) / 255
    return colour * alpha + 255 * (1 - alpha)
