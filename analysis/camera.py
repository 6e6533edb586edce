"""A camera over the plane of a continuous image: which region each frame of a film shows.

From one view to the next the width of the view is exponential in time, so that a zoom looks equally
fast everywhere, and the point that both views show at the same place of the frame stays there. A
pan is the limit of equal widths: straight and at constant speed. Coordinates are exact fractions,
fine enough for every pixel. No networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

View = tuple[Fraction, Fraction, Fraction, Fraction]
"""(x0, y0, x1, y1) in units of the image, x right, y down; the unit square is the whole image."""

EASINGS = ("linear", "smooth")
# A view's edges are rounded to at most this part of a pixel.
_STEPS_PER_PIXEL = 2**12
# Below this ratio of widths the formula of a zoom divides two numbers that are both about zero.
_SMALLEST_LOG_ZOOM = 1e-6


def between(first: View, second: View, t: float) -> tuple[float, float, float, float]:
    """The view at time t on the way between two views of one aspect ratio.

    The edges are e(t) = e1 + u(t) (e2 - e1) with u(t) = (q^t - 1) / (q - 1), q = width of the
    second view / width of the first; then the width is width_1 q^t.

    Args:
        first, second: Views at t = 0 and t = 1.
        t: In [0, 1].
    """
    log_zoom = math.log((second[2] - second[0]) / (first[2] - first[0]))
    if abs(log_zoom) > _SMALLEST_LOG_ZOOM:
        t = math.expm1(t * log_zoom) / math.expm1(log_zoom)
    x0, y0, x1, y1 = (float(a) + t * float(b - a) for a, b in zip(first, second))
    return x0, y0, x1, y1


def eased(t: float, easing: str) -> float:
    """Time as the camera takes it: "linear", or "smooth" = at rest at both ends, 3 t^2 - 2 t^3."""
    return t * t * (3 - 2 * t) if easing == "smooth" else t


def path(
    views: Sequence[View], frames: int, width: int, easing: str = "linear", returns: bool = False
) -> list[View]:
    """The view of every frame; equally many frames from each view to the next.

    Args:
        views: At least one, all of one aspect ratio.
        frames: At least 1.
        width: Pixels of a frame along x, which decide how finely views are rounded.
        easing: A name of `EASINGS`, between two views.
        returns: Go back to the first view, and arrive there one frame after the last, so that the
            film can be repeated without a stop. Else the last frame shows the last view.
    """
    stops = [*views, views[0]] if returns else list(views)
    legs = len(stops) - 1
    if legs == 0:
        return [stops[0]] * frames
    narrowest = min(view[2] - view[0] for view in views)
    # A power of two keeps the grids of all frames on few different denominators.
    denominator = 2 ** max(0, math.ceil(math.log2(width * _STEPS_PER_PIXEL / narrowest)))
    last = frames if returns else max(frames - 1, 1)
    found = []
    for frame in range(frames):
        leg, rest = divmod(frame * legs, last)
        if rest == 0:
            found.append(stops[leg])
            continue
        edges = between(stops[leg], stops[leg + 1], eased(rest / last, easing))
        x0, y0, x1, y1 = (Fraction(round(edge * denominator), denominator) for edge in edges)
        found.append((x0, y0, x1, y1))
    return found


def frame_size(view: View, pixels_per_unit: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a frame that shows a view with a given number of pixels.

    Args:
        view: What is shown.
        pixels_per_unit: Of the image, (height, width).
    """
    x0, y0, x1, y1 = view
    height, width = pixels_per_unit
    return max(1, round((y1 - y0) * height)), max(1, round((x1 - x0) * width))


def overscan(
    views: Sequence[View], size: tuple[int, int], share: float
) -> tuple[list[View], tuple[int, int]]:
    """Show more on all sides, with frames that grow by as many pixels as the views do.

    The pixels of the smaller frames are the middle of the larger ones, each at its old place.

    Args:
        views: Views of the smaller frames.
        size: (height, width) of the smaller frames.
        share: How much is added on each side, as a part of the frame.

    Returns:
        The wider views, and the size of the larger frames.
    """
    height, width = size
    rows, columns = round(share * height), round(share * width)
    wider = []
    for x0, y0, x1, y1 in views:
        dx, dy = (x1 - x0) * Fraction(columns, width), (y1 - y0) * Fraction(rows, height)
        wider.append((x0 - dx, y0 - dy, x1 + dx, y1 + dy))
    return wider, (height + 2 * rows, width + 2 * columns)
