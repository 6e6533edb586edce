"""Which image sizes the networks take, and the pyramids that belong to one. Imports no torch.

Sizes are (height, width) in pixels or cells; R = max(H, W) is the "resolution" of a non-square
image, by which blocks are named and channels are counted.
"""

from __future__ import annotations

from collections.abc import Sequence

SMALLEST_SIDE = 4
LARGEST_LAST_SIDE = 7
LARGEST_FIRST_LATTICE = 32


def checked_img_shape(
    img_shape: Sequence[int] | None, img_resolution: int, img_channels: int
) -> tuple[int, int, int]:
    """(C, H, W) of the training images from the two ways of saying it.

    Args:
        img_shape: (C, H, W); None = square.
        img_resolution: max(H, W).
        img_channels: C.

    Raises:
        ValueError: They contradict each other, or a side is not positive.
    """
    if img_shape is None:
        img_shape = img_channels, img_resolution, img_resolution
    channels, height, width = (int(number) for number in img_shape)
    if channels != img_channels or max(height, width) != img_resolution or min(height, width) < 1:
        raise ValueError(
            f"img_shape (C, H, W) = {(channels, height, width)} does not go with img_channels "
            f"{img_channels} and img_resolution max(H, W) = {img_resolution}."
        )
    return channels, height, width


def lattice_shapes(
    *sides: int, largest_first: int = LARGEST_FIRST_LATTICE
) -> list[tuple[int, ...]]:
    """Cells (H_k, W_k) of every lattice of an INR pyramid, coarse to fine; the last is the image.

    R_1 = R / 2^k with the smallest k >= 2 that makes R_1 <= 32, or a smaller k where R_1 would
    fall below 4: max(4, min(32, R / 4)) for powers of two. Sides that do not divide are rounded
    up, so every lattice has twice the cells of the one below, less one where that is odd.

    Args:
        sides: Height and width; of signals of one or three coordinates, as many sides.
        largest_first: In place of 32.

    Raises:
        ValueError: The longest side is below 4.
    """
    longer = max(sides)
    if longer < SMALLEST_SIDE or min(sides) < 1:
        size = "x".join(map(str, reversed(sides)))
        raise ValueError(f"an image needs a side of at least 4 pixels, not {size}.")
    halvings = 0
    while _halved(longer, halvings + 1) >= SMALLEST_SIDE:
        if halvings >= 2 and _halved(longer, halvings) <= largest_first:
            break
        halvings += 1
    return [tuple(_halved(side, k) for side in sides) for k in range(halvings, -1, -1)]


def halving_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes (h, w) that the discriminator's features go through, from the image downwards.

    Both sides are halved as long as both are even and the shorter one keeps 4 pixels: a square
    with a power of two as side ends at 4x4, 96x64 (width x height) at 6x4.
    """
    shapes = [(height, width)]
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 2 * SMALLEST_SIDE:
        height, width = height // 2, width // 2
        shapes.append((height, width))
    return shapes


def shape_problem(height: int, width: int) -> str | None:
    """Why the discriminator cannot take images of this size, as half a sentence; None = it can.

    The last features are flattened into a dense layer, so their shorter side has to come down to
    7 pixels or less. Both sides have to be multiples of the same 2^n, with the shorter one from
    4 x 2^n to 7 x 2^n.
    """
    last_height, last_width = halving_shapes(height, width)[-1]
    if min(height, width) < SMALLEST_SIDE:
        return f"{width}x{height} pixels are less than {SMALLEST_SIDE} along a side"
    if min(last_height, last_width) <= LARGEST_LAST_SIDE:
        return None
    return (
        f"{width}x{height} pixels can be halved only down to {last_width}x{last_height}, "
        f"but the shorter side has to come down to {LARGEST_LAST_SIDE} or less"
    )


def fitting_shapes(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The nearest sizes (h, w) that the discriminator takes, of at least 8 pixels along a side.

    Returns:
        The smallest one that holds an image of the given size, and the largest one that fits into
        it (None if there is none).
    """
    larger, smaller = [], []
    for n in range(1, max(height, width).bit_length() + 1):
        unit = 2**n
        above = [max(-(-side // unit), SMALLEST_SIDE) for side in (height, width)]
        below = [side // unit for side in (height, width)]
        for cells, found in ((above, larger), (below, smaller)):
            if SMALLEST_SIDE <= min(cells) <= LARGEST_LAST_SIDE:
                found.append((cells[0] * unit, cells[1] * unit))
    return (
        min(larger, key=_shape_area),
        max(smaller, key=_shape_area) if smaller else None,
    )


def num_highest(resolutions: Sequence[int], num_fp16_res: int) -> frozenset[int]:
    """Those of the `num_fp16_res` highest block resolutions that are at least 8."""
    highest = sorted(resolutions, reverse=True)[:num_fp16_res]
    return frozenset(resolution for resolution in highest if resolution >= 8)


def _halved(side: int, times: int) -> int:
    return -(-side // 2**times)


def _shape_area(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]
