"""Colour, filter and cutout transforms of the augmentation pipe, and matrices of affine maps.

Pure functions without random numbers: `training.augment` draws the parameters. Letters: N images, C
channels, H x W pixels. All of them can be differentiated twice with respect to the images, as R1
through the pipe needs. The geometric transform is in `training.augment_warp`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ops.conv2d import conv2d


def matrix(
    *rows: list[torch.Tensor | float], device: torch.device | str | None = None
) -> torch.Tensor:
    """Stack rows of numbers and tensors into matrices.

    Args:
        rows: The rows, all of one length. Tensor entries broadcast against each other.
        device: Where the result lives if every entry is a number; otherwise the tensors decide.

    Returns:
        [..., number of rows, number of columns]; float32 if every entry is a number.

    Raises:
        ValueError: There are no rows, or they differ in length.
    """
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"need rows of one length, got lengths {[len(row) for row in rows]}")
    entries = [entry for row in rows for entry in row]
    tensors = [entry for entry in entries if isinstance(entry, torch.Tensor)]
    if not tensors:
        return torch.tensor(rows, dtype=torch.float32, device=device)
    entries = [
        entry if isinstance(entry, torch.Tensor) else torch.full_like(tensors[0], entry)
        for entry in entries
    ]
    stacked = torch.stack(torch.broadcast_tensors(*entries), dim=-1)
    return stacked.unflatten(-1, (len(rows), len(rows[0])))


def translate2d(
    tx: torch.Tensor | float, ty: torch.Tensor | float, device: torch.device | str | None = None
) -> torch.Tensor:
    """Homogeneous [..., 3, 3] matrix of (x, y) -> (x + tx, y + ty)."""
    return matrix([1, 0, tx], [0, 1, ty], [0, 0, 1], device=device)


def translate3d(
    tx: torch.Tensor | float,
    ty: torch.Tensor | float,
    tz: torch.Tensor | float,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Homogeneous [..., 4, 4] matrix of (x, y, z) -> (x + tx, y + ty, z + tz)."""
    return matrix([1, 0, 0, tx], [0, 1, 0, ty], [0, 0, 1, tz], [0, 0, 0, 1], device=device)


def scale2d(
    sx: torch.Tensor | float, sy: torch.Tensor | float, device: torch.device | str | None = None
) -> torch.Tensor:
    """Homogeneous [..., 3, 3] matrix of (x, y) -> (sx x, sy y)."""
    return matrix([sx, 0, 0], [0, sy, 0], [0, 0, 1], device=device)


def scale3d(
    sx: torch.Tensor | float,
    sy: torch.Tensor | float,
    sz: torch.Tensor | float,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Homogeneous [..., 4, 4] matrix of (x, y, z) -> (sx x, sy y, sz z)."""
    return matrix([sx, 0, 0, 0], [0, sy, 0, 0], [0, 0, sz, 0], [0, 0, 0, 1], device=device)


def rotate2d(theta: torch.Tensor | float, device: torch.device | str | None = None) -> torch.Tensor:
    """Homogeneous [..., 3, 3] matrix of the rotation by theta radians from the x to the y axis."""
    theta = torch.as_tensor(theta, dtype=torch.get_default_dtype(), device=device)
    cos, sin = torch.cos(theta), torch.sin(theta)
    return matrix([cos, -sin, 0], [sin, cos, 0], [0, 0, 1])


def rotate3d(
    v: torch.Tensor, theta: torch.Tensor | float, device: torch.device | str | None = None
) -> torch.Tensor:
    """Homogeneous [..., 4, 4] matrix of the rotation by theta radians about v (Rodrigues).

    Args:
        v: [..., 3] or longer, unit axis; further entries are ignored.
        theta: [...], angle in radians, right-handed.
        device: Where the result lives; None = where v lives.
    """
    v = torch.as_tensor(v, device=device)
    theta = torch.as_tensor(theta, dtype=v.dtype, device=v.device)
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    cos, sin = torch.cos(theta), torch.sin(theta)
    k = 1 - cos
    return matrix(
        [x * x * k + cos, x * y * k - z * sin, x * z * k + y * sin, 0],
        [y * x * k + z * sin, y * y * k + cos, y * z * k - x * sin, 0],
        [z * x * k - y * sin, z * y * k + x * sin, z * z * k + cos, 0],
        [0, 0, 0, 1],
    )


def translate2d_inv(
    tx: torch.Tensor | float, ty: torch.Tensor | float, device: torch.device | str | None = None
) -> torch.Tensor:
    """Inverse of translate2d."""
    return translate2d(-tx, -ty, device=device)


def scale2d_inv(
    sx: torch.Tensor | float, sy: torch.Tensor | float, device: torch.device | str | None = None
) -> torch.Tensor:
    """Inverse of scale2d."""
    return scale2d(1 / sx, 1 / sy, device=device)


def rotate2d_inv(
    theta: torch.Tensor | float, device: torch.device | str | None = None
) -> torch.Tensor:
    """Inverse of rotate2d."""
    return rotate2d(-theta, device=device)


def wavelet_filter_bank(lowpass: list[float], bands: int = 4) -> np.ndarray:
    """Split a unit impulse into octave bands by repeated half-band filtering.

    With the zero-phase half-band pair L = H(z) H(1/z) / 2 and 1 - L, the split is
    1 = (1 - L(z)) + L(z) [(1 - L(z^2)) + L(z^2) [...]].

    Args:
        lowpass: Orthogonal low-pass filter H with sum sqrt(2).
        bands: Number of bands, the lowest first.

    Returns:
        [bands, taps] float64, taps = (2 len(lowpass) - 2) (2^(bands-1) - 1) + 1. The columns sum to
        a unit impulse in the middle; the rows sum to 1, 0, 0, ...
    """
    h = np.asarray(lowpass, dtype=np.float64)
    low = np.convolve(h, h[::-1]) / 2
    high = -low
    high[low.size // 2] += 1
    bank = np.ones((1, 1))
    for _ in range(bands - 1):
        spread = np.zeros((bank.shape[0], 2 * bank.shape[1] - 1))
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in spread])
        margin = (bank.shape[1] - high.size) // 2
        bank = np.concatenate([bank, np.pad(high, margin)[None]])
    return bank


def color_transform(
    grey_gain: torch.Tensor,  # [N]
    chroma_gain: torch.Tensor,  # [N]
    hue: torch.Tensor,  # [N]
    offset: torch.Tensor,  # [N]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Affine colour map that scales the grey part, scales and turns the rest, adds a grey offset.

    With the grey axis v = (1, 1, 1) / sqrt(3) and P = v v^T:
    M = grey_gain P + chroma_gain (cos(hue) (I - P) + sin(hue) [v]_x).

    Args:
        grey_gain: Factor along the grey axis, negative = luma flip.
        chroma_gain: Factor orthogonal to it.
        hue: Angle about the grey axis in radians; 2 pi / 3 moves red to green.
        offset: Added to every channel.

    Returns:
        M [N, 3, 3] and the offsets [N, 3, 1].
    """
    along = torch.full([3, 3], 1 / 3, dtype=hue.dtype, device=hue.device)
    across = torch.eye(3, dtype=hue.dtype, device=hue.device) - along
    s = 1 / math.sqrt(3)
    cross = hue.new_tensor([[0, -s, s], [s, 0, -s], [-s, s, 0]])
    weights = torch.stack([grey_gain, chroma_gain * hue.cos(), chroma_gain * hue.sin()], dim=1)
    m = weights @ torch.stack([along, across, cross]).flatten(1)
    return m.unflatten(1, (3, 3)), offset[:, None, None].expand(-1, 3, 1)


def apply_color(
    images: torch.Tensor,  # [N, C, H, W]
    m: torch.Tensor,  # [N, 3, 3]
    offset: torch.Tensor,  # [N, 3, 1]
) -> torch.Tensor:
    """Apply a colour map to 1 (grey) or 3 (RGB) channels; a 2nd or 4th is alpha, which stays.

    A grey image x is the colour (x, x, x), of which the mean is kept.

    Raises:
        ValueError: Another number of channels.
    """
    channels = images.shape[1]
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"colour transforms need 1 to 4 channels, got {channels}")
    if channels in (2, 4):
        color = apply_color(images[:, :-1], m, offset)
        return torch.cat([color, images[:, -1:]], dim=1)
    if channels == 1:
        gain = m.sum(dim=2).mean(dim=1)[:, None, None, None]
        return images * gain + offset.mean(dim=1)[:, :, None, None]
    return torch.baddbmm(offset, m, images.flatten(2)).view(images.shape)


def filter_separable(images: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Convolve image n with filter n along x and along y, continued by reflection.

    Args:
        images: [N, C, H, W].
        filters: [N, taps], symmetric, an odd number of taps, dtype of images.

    Returns:
        [N, C, H, W].
    """
    n, c, h, w = images.shape
    taps = filters.shape[1]
    groups = n * c
    x = _filter_reflect_pad(images, taps // 2).flatten(0, 1)[None]
    weight = filters[:, None, None].expand(-1, c, -1, -1).reshape(groups, 1, 1, taps)
    x = conv2d(x, weight, groups=groups)
    x = conv2d(x, weight.transpose(2, 3), groups=groups)
    return x.view(n, c, h, w)


def _filter_reflect_pad(images: torch.Tensor, pad: int) -> torch.Tensor:
    """Reflect all four borders, repeatedly where the image is smaller than the padding."""
    todo_x = todo_y = pad
    while todo_x or todo_y:
        h, w = images.shape[-2:]
        if min(h, w) == 1:
            mode, step_x, step_y = "replicate", todo_x, todo_y
        else:
            mode, step_x, step_y = "reflect", min(todo_x, w - 1), min(todo_y, h - 1)
        images = F.pad(images, [step_x, step_x, step_y, step_y], mode=mode)
        todo_x, todo_y = todo_x - step_x, todo_y - step_y
    return images


def cut_out(
    images: torch.Tensor,  # [N, C, H, W]
    centre: torch.Tensor,  # [N, 2]
    size: torch.Tensor,  # [N]
) -> torch.Tensor:
    """Zero a rectangle around `centre`, both sides `size`; in fractions of (W, H)."""
    h, w = images.shape[-2:]
    x = (torch.arange(w, dtype=centre.dtype, device=centre.device) + 0.5) / w
    y = (torch.arange(h, dtype=centre.dtype, device=centre.device) + 0.5) / h
    half = size[:, None] / 2
    keep_x = (x - centre[:, :1]).abs() >= half
    keep_y = (y - centre[:, 1:]).abs() >= half
    keep = keep_x[:, None, None, :] | keep_y[:, None, :, None]
    return images * keep.to(images.dtype)
