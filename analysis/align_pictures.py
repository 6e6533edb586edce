"""What `analysis.align` found, as pictures and as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from analysis import sheets
from analysis.align import Placement, Step, draw_placed
from analysis.subjects import Subject, to_picture
from torch_utils.images import from_uint8, to_uint8

_FOUND = (220, 40, 40)
_START = (120, 120, 120)
_SMALLEST_SHOWN = 192


def overview(
    synthesis: nn.Module, subject: Subject, target: Tensor, steps: Sequence[Step]
) -> Image.Image:
    """The image with the target's frame at the start (grey) and in the end (red), and close-ups.

    Args:
        synthesis: A continuous synthesis network.
        subject: The image.
        target: uint8 [C, h, w].
        steps: Result of `align`.
    """
    first, last = steps[0].placement, steps[-1].placement
    pictures = [_framed(synthesis, subject.ws, [first, last])]
    size = tuple(target.shape[1:])
    pictures += [_draw(synthesis, subject.ws, step, size) for step in (first, last)]
    pictures.append(to_picture(target))
    shown = [sheets.enlarged(picture, _SMALLEST_SHOWN) for picture in pictures]
    return sheets.labelled_sheet([shown], ["image", "start", "found", "target"], [subject.name])


def frames(
    synthesis: nn.Module, subject: Subject, target: Tensor, steps: Sequence[Step]
) -> Iterator[np.ndarray]:
    """The frame in the image, the close-up and the target at every step: uint8 [H, W, 3]."""
    size = tuple(target.shape[1:])
    for step in steps:
        placements = [steps[0].placement, step.placement]
        row = [_framed(synthesis, subject.ws, placements)]
        row += [_draw(synthesis, subject.ws, step.placement, size), to_picture(target)]
        shown = [sheets.enlarged(picture, _SMALLEST_SHOWN) for picture in row]
        yield np.asarray(sheets.labelled_sheet([shown]))


def report(
    synthesis: nn.Module, subject: Subject, target: Tensor, steps: Sequence[Step]
) -> dict[str, Any]:
    """The result as plain numbers: see `Placement.describe`.

    `psnr` is that of the found part to the target at the target's full size, in dB for 8-bit
    colours (None if they are equal); the `rms` of the steps are those on their own levels, of
    values in [-1, 1].
    """
    last = steps[-1].placement
    drawn = to_uint8(draw_placed(synthesis, subject.ws, last, tuple(target.shape[1:]))).cpu()
    error = float((drawn.double() - target.double()).square().mean())
    return {
        "image": subject.name,
        "seed": subject.seed,
        "class": subject.label,
        **last.describe(),
        "psnr": None if error == 0 else 10 * math.log10(255**2 / error),
        "start": steps[0].placement.describe(),
        "steps": [
            {"side": step.side, "rms": step.rms, "params": step.placement.params.tolist()}
            for step in steps
        ],
    }


def as_target(pixels: np.ndarray) -> tuple[Tensor, Tensor]:
    """uint8 [H, W, C] as uint8 [C, H, W] and as float32 in [-1, 1]."""
    target = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    return target, from_uint8(target)


def _draw(
    synthesis: nn.Module, ws: Tensor, placement: Placement, size: tuple[int, int]
) -> Image.Image:
    return to_picture(draw_placed(synthesis, ws, placement, size))


def _framed(synthesis: nn.Module, ws: Tensor, placements: Sequence[Placement]) -> Image.Image:
    """The image with the frames of two placements, the second in red; upper edges are thick."""
    with torch.inference_mode():
        picture = to_picture(synthesis.render(ws)[0])
    picture = sheets.enlarged(picture, _SMALLEST_SHOWN).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for placement, colour in zip(placements, (_START, _FOUND)):
        corners = [(x * picture.width, y * picture.height) for x, y in placement.corners()]
        draw.line([*corners, corners[0]], fill=colour, width=2)
        draw.line(corners[:2], fill=colour, width=4)
    return picture
