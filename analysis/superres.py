"""The same images enlarged four ways: three interpolations, and the function itself (figure 3).

Skorokhodov et al., "Adversarial Generation of Continuous Images": a continuous network trained at
one size draws a larger picture by evaluating F on a denser grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from analysis import sheets
from analysis.subjects import Subject, to_picture
from networks import sampling

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
INR = "INR"
COLUMNS = (*INTERPOLATIONS, INR)
_SMALLEST_SHOWN = 128


class Enlargement(NamedTuple):
    """One image, enlarged.

    Attributes:
        name: Of the subject.
        small: The picture at training size.
        large: Method -> picture of the same larger size, in the order of `COLUMNS`.
    """

    name: str
    small: Image.Image
    large: dict[str, Image.Image]


def enlarge(
    G: nn.Module,
    subject: Subject,
    size: tuple[int, int],
    lod: str = "fixed",
    dtype: torch.dtype | None = None,
) -> Enlargement:
    """Enlarges one image by each method.

    Args:
        G: Continuous generator.
        subject: The image.
        size: (H, W) of the large pictures.
        lod: How the function is sampled, see `networks.render.render_image`.
        dtype: Precision of the blocks; None = each block's own.
    """
    small = to_picture(sampling.draw_image(G, subject.ws, subject.seed, dtype=dtype))
    view = {"size": size, "lod": lod}
    drawn = sampling.draw_image(G, subject.ws, subject.seed, view=view, dtype=dtype)
    height, width = size
    large = {name: small.resize((width, height), how) for name, how in INTERPOLATIONS.items()}
    return Enlargement(subject.name, small, {**large, INR: to_picture(drawn)})


def measure(enlargement: Enlargement) -> list[dict[str, Any]]:
    """One row per method.

    rms_to_inr: root mean square difference to the function's picture, in levels of 0 to 255.
    detail: mean absolute difference of neighbouring pixels, in levels: how sharp the picture is.
    """
    reference = np.asarray(enlargement.large[INR], np.float64)
    rows = []
    for method, picture in enlargement.large.items():
        pixels = np.asarray(picture, np.float64)
        steps = [np.abs(np.diff(pixels, axis=axis)).ravel() for axis in (0, 1)]
        rows.append(
            {
                "image": enlargement.name,
                "method": method,
                "rms_to_inr": float(np.sqrt(np.mean((pixels - reference) ** 2))),
                "detail": float(np.concatenate(steps).mean()),
            }
        )
    return rows


def sheet(found: Sequence[Enlargement]) -> Image.Image:
    """One row per image, one column per method, small pictures shown larger."""
    rows = [
        [sheets.enlarged(picture, _SMALLEST_SHOWN) for picture in enlargement.large.values()]
        for enlargement in found
    ]
    return sheets.labelled_sheet(rows, COLUMNS, [enlargement.name for enlargement in found])
