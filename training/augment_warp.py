"""The geometric transform of the augmentation pipe: band-limited affine resampling of images.

Letters: N images, C channels, H x W pixels. Positions are (x, y) in pixels, x right, y down,
origin at the image centre. Differentiable twice with respect to the images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ops.grid_sample import grid_sample
from ops.upfirdn2d import downsample2d, upfirdn2d, upsample2d

# Up to this image size two dense matrices resample faster on the CPU than FIR filters do.
_WARP_DENSE_MAX_SIZE = 64

# Images of similar margins warped together on the CPU.
_WARP_CPU_CHUNK = 8


def warp_affine(
    images: torch.Tensor,  # [N, C, H, W]
    linear: torch.Tensor,  # [N, 2, 2]
    offset: torch.Tensor,  # [N, 2]
    lowpass: torch.Tensor,  # [taps]
) -> torch.Tensor:
    """Resample images at the positions linear p + offset of their pixel centres p, band-limited.

    The image is continued by reflection, at most by its own size less one, and is zero beyond; it
    is upsampled by 2 with `lowpass`, sampled bilinearly at twice the resolution, and downsampled
    with the flipped filter (Karras et al. 2020, arXiv:2006.06676, appendix B). As the filter
    belongs to an orthogonal wavelet, the identity returns the image up to rounding.

    Accelerators do just that for the whole batch. On the CPU the same values are had for less work:
    images with an identity map are copied, those without a rotation other than by a multiple of 90
    degrees take one matrix per axis, the rest is warped in groups of similar margins.

    Args:
        images: float32 or float64.
        linear: Matrix from output to input positions, dtype of images.
        offset: Shift in input pixels, dtype of images.
        lowpass: Filter of an orthogonal wavelet, normalised to sum 1, an even number of taps.

    Returns:
        [N, C, H, W], dtype of images.
    """
    margins = _warp_margins(linear, offset, images.shape[-2:], taps=lowpass.shape[0])
    if images.device.type != "cpu":
        widths = margins.amax(dim=0).tolist()  # the one transfer to the host
        return _warp_by_grid(images, linear, offset, lowpass, widths)

    straight = (linear[:, 0, 1] == 0) & (linear[:, 1, 0] == 0)
    swapped = (linear[:, 0, 0] == 0) & (linear[:, 1, 1] == 0)
    fixed = straight & (linear[:, 0, 0] == 1) & (linear[:, 1, 1] == 1) & (offset == 0).all(dim=1)
    kinds = torch.where(straight, 1, torch.where(swapped, 2, 3)).masked_fill(fixed, 0)

    indices, warped = [], []
    for kind in 1, 2, 3:
        index = (kinds == kind).nonzero()[:, 0]
        if kind == 3:
            index = index[margins[index].sum(dim=1).argsort(stable=True)]
        for i in index.split(_WARP_CPU_CHUNK if kind == 3 else max(len(index), 1)):
            if len(i) > 0:
                widths = margins[i].amax(dim=0).tolist()
                warp = _warp_by_grid if kind == 3 else _warp_by_axes
                indices.append(i)
                warped.append(warp(images[i], linear[i], offset[i], lowpass, widths))
    return images.index_copy(0, torch.cat(indices), torch.cat(warped)) if indices else images


def _warp_margins(
    linear: torch.Tensor, offset: torch.Tensor, size: tuple[int, int], taps: int
) -> torch.Tensor:
    """Pixels that a warp reads beyond the image, [N, (left, top, right, bottom)] int64."""
    height, width = size
    pad = taps // 4
    centre = linear.new_tensor([(width - 1) / 2, (height - 1) / 2])
    reach = linear.abs() @ centre  # half extent of the mapped rectangle of pixel centres
    beyond = torch.cat([reach - offset, reach + offset], dim=1) + (2 * pad - centre).repeat(2)
    limit = linear.new_tensor([width - 1, height - 1] * 2)
    return beyond.clamp(min=0).minimum(limit).ceil().to(torch.int64)


def _warp_by_grid(
    images: torch.Tensor,
    linear: torch.Tensor,
    offset: torch.Tensor,
    lowpass: torch.Tensor,
    margins: list[int],
) -> torch.Tensor:
    """warp_affine of images that share one margin (left, top, right, bottom), for any map."""
    left, top, right, bottom = margins
    height, width = images.shape[-2:]
    pad = lowpass.shape[0] // 4
    dense = images.device.type == "cpu" and max(height, width) <= _WARP_DENSE_MAX_SIZE

    if dense:
        up_y = _warp_up_matrix(height, top, bottom, lowpass).to(images.dtype)
        up_x = _warp_up_matrix(width, left, right, lowpass).to(images.dtype)
        x = up_y @ (images @ up_x.T)
    else:
        x = F.pad(images, [left, right, top, bottom], mode="reflect")
        x = upsample2d(x, lowpass, up=2)

    # In units of the twice-enlarged images, `pad` pixels more on each side of the result. Sample i
    # of an image enlarged by the filter lies (i + 1) / 2 pixels from its edge, not (i + 1/2) / 2.
    in_size = linear.new_tensor([x.shape[3], x.shape[2]])
    out_h, out_w = 2 * (height + 2 * pad), 2 * (width + 2 * pad)
    out_size = linear.new_tensor([out_w, out_h])
    shift = linear.new_tensor([(left - right) / 2, (top - bottom) / 2])
    start = 2 * (linear.sum(dim=2) / 4 + offset + shift) - 0.5
    scaled = linear * (out_size / in_size[:, None])
    theta = torch.cat([scaled, (start * (2 / in_size))[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [x.shape[0], x.shape[1], out_h, out_w], align_corners=False)
    x = grid_sample(x, grid)

    if dense:
        down_y = _warp_down_matrix(height, pad, lowpass).to(images.dtype)
        down_x = _warp_down_matrix(width, pad, lowpass).to(images.dtype)
        return down_y @ (x @ down_x.T)
    return downsample2d(x, lowpass, down=2, padding=-2 * pad, flip_filter=True)


def _warp_by_axes(
    images: torch.Tensor,
    linear: torch.Tensor,
    offset: torch.Tensor,
    lowpass: torch.Tensor,
    margins: list[int],
) -> torch.Tensor:
    """warp_affine of images whose maps are all diagonal or all anti-diagonal: A_y X A_x^T."""
    left, top, right, bottom = margins
    height, width = images.shape[-2:]
    swapped = bool(linear[0, 0, 0] == 0)  # columns of the input become rows of the output
    width_out, height_out = (height, width) if swapped else (width, height)
    scale = linear.sum(dim=2)
    a_x = _warp_axis_matrix(width, width_out, scale[:, 0], offset[:, 0], left, right, lowpass)
    a_y = _warp_axis_matrix(height, height_out, scale[:, 1], offset[:, 1], top, bottom, lowpass)
    x = a_y[:, None] @ (images @ a_x.transpose(1, 2)[:, None])
    return x.transpose(2, 3) if swapped else x


def _warp_axis_matrix(
    size: int,
    out_size: int,
    scale: torch.Tensor,  # [N]
    offset: torch.Tensor,  # [N]
    before: int,
    after: int,
    lowpass: torch.Tensor,  # [taps]
) -> torch.Tensor:
    """Pad, upsample, sample at scale p + offset, downsample: one axis, [N, out_size, size]."""
    pad = lowpass.shape[0] // 4
    up = _warp_up_matrix(size, before, after, lowpass).to(scale.dtype)
    out_count, in_count = 2 * (out_size + 2 * pad), up.shape[0]
    out_index = torch.arange(out_count, dtype=scale.dtype)
    position = (out_index + 1 - out_count / 2) / 2
    source = scale[:, None] * position + (offset[:, None] + (before - after) / 2)
    index = 2 * source - 1 + in_count / 2
    low = index.floor()
    weight = (index - low)[:, :, None]
    # Rows of zeros on both sides stand for everything beyond the padded image.
    up = F.pad(up, [0, 0, 1, 1])
    low = (low.to(torch.int64) + 1).clamp(min=-1, max=in_count + 1)
    rows = torch.lerp(up[low.clamp(min=0)], up[(low + 1).clamp(max=in_count + 1)], weight)
    return _warp_down_matrix(out_size, pad, lowpass).to(scale.dtype) @ rows


def _warp_up_matrix(size: int, before: int, after: int, lowpass: torch.Tensor) -> torch.Tensor:
    """Reflect-pad and upsample by 2 along one axis: [2 (before + size + after), size]."""
    taps = lowpass.shape[0]
    basis = F.pad(torch.eye(size)[None, None], [0, 0, before, after], mode="reflect")
    padding = [0, 0, (taps + 1) // 2, (taps - 2) // 2]
    return upfirdn2d(basis, lowpass[:, None], up=[1, 2], padding=padding, gain=2)[0, 0]


def _warp_down_matrix(size: int, pad: int, lowpass: torch.Tensor) -> torch.Tensor:
    """Crop `pad` pixels and downsample by 2 along one axis: [size, 2 (size + 2 pad)]."""
    taps = lowpass.shape[0]
    basis = torch.eye(2 * (size + 2 * pad))[None, None]
    padding = [0, 0, (taps - 1) // 2 - 2 * pad, (taps - 2) // 2 - 2 * pad]
    return upfirdn2d(basis, lowpass[:, None], down=[1, 2], padding=padding, flip_filter=True)[0, 0]
