"""Images beyond their border: F on larger squares than the trained one (figures 2 and 9).

Skorokhodov et al., "Adversarial Generation of Continuous Images". The pixels keep their size, so
the picture grows with the range; the unit square is what the network was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from analysis import sheets
from analysis.subjects import Subject, to_picture
from networks import sampling

Range = tuple[Fraction, Fraction]
_SMALLEST_SHOWN = 96


class View(NamedTuple):
    """One image over one range.

    Attributes:
        name: Of the subject.
        span: (low, high) as asked for.
        region: (x0, y0, x1, y1) that the picture shows, in units of the image.
        picture: F over the region.
    """

    name: str
    span: Range
    region: tuple[Fraction, Fraction, Fraction, Fraction]
    picture: Image.Image


def whole_pixels(
    img_shape: tuple[int, int, int], span: Range, zoom: int = 1
) -> tuple[tuple[Fraction, ...], tuple[int, int]]:
    """A range along both axes, extended to whole pixels of the training grid.

    Args:
        img_shape: (C, H, W) at training size.
        span: (low, high) in units of the image.
        zoom: Samples per pixel along each axis.

    Returns:
        The region (x0, y0, x1, y1) and its size (H, W) in samples.
    """
    axes = []
    for side in (img_shape[2], img_shape[1]):
        first, last = math.floor(span[0] * side), math.ceil(span[1] * side)
        axes.append((Fraction(first, side), Fraction(last, side), (last - first) * zoom))
    (x0, x1, width), (y0, y1, height) = axes
    return (x0, y0, x1, y1), (height, width)


def extrapolate(
    G: nn.Module,
    subject: Subject,
    span: Range,
    zoom: int = 1,
    dtype: torch.dtype | None = None,
) -> View:
    """Draws one image over one range, with samples where the training grid has its own.

    Args:
        G: Continuous generator.
        subject: The image.
        span: (low, high) along both axes, in units of the image.
        zoom: Samples per pixel of the training grid, along each axis.
        dtype: Precision of the blocks; None = each block's own.
    """
    region, size = whole_pixels(G.img_shape, span, zoom)
    seen = {"region": region, "size": size}
    image = sampling.draw_image(G, subject.ws, subject.seed, view=seen, dtype=dtype)
    return View(subject.name, span, region, to_picture(image))


def measure(view: View) -> dict[str, Any]:
    """Brightness, contrast and saturation, apart for the unit square and for what is around it.

    Means and standard deviations in levels of 0 to 255; `clipped` is the share of values at either
    end. None where there are no pixels.
    """
    x0, y0, x1, y1 = (float(edge) for edge in view.region)
    pixels = np.asarray(view.picture, np.float64)
    height, width = pixels.shape[:2]
    down = y0 + (np.arange(height) + 0.5) / height * (y1 - y0)
    across = x0 + (np.arange(width) + 0.5) / width * (x1 - x0)
    down, across = ((axis > 0) & (axis < 1) for axis in (down, across))
    inside = down[:, None] & across[None, :]
    row: dict[str, Any] = {"image": view.name, "low": str(view.span[0]), "high": str(view.span[1])}
    for where, mask in (("inside", inside), ("outside", ~inside)):
        values = pixels[mask]
        found = values.size > 0
        row[f"{where}_mean"] = float(values.mean()) if found else None
        row[f"{where}_std"] = float(values.std()) if found else None
        row[f"{where}_clipped"] = float(np.mean((values == 0) | (values == 255))) if found else None
    return row


def framed(view: View, smallest_side: int = 0) -> Image.Image:
    """The picture with the border of the unit square drawn into it.

    Args:
        view: What `extrapolate` drew.
        smallest_side: Pixels are repeated until the picture is at least so large.
    """
    return sheets.framed(sheets.enlarged(view.picture, smallest_side), view.region)


def sheet(rows: Sequence[Sequence[View]]) -> Image.Image:
    """One row per image, one column per range, at one scale."""
    pictures = [view.picture for view in rows[0]]
    # All are enlarged alike, so that the same thing is equally large everywhere.
    times = max(1, -(-_SMALLEST_SHOWN // min(min(picture.size) for picture in pictures)))
    drawn = [[framed(view, times * min(view.picture.size)) for view in row] for row in rows]
    columns = [
        f"{float(low):g} to {float(high):g}" for low, high in (view.span for view in rows[0])
    ]
    return sheets.labelled_sheet(drawn, columns, [row[0].name for row in rows])
