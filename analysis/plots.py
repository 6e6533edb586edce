"""Simple diagrams drawn with Pillow: lines over two axes, and histograms. No networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from PIL import Image, ImageDraw, ImageFont

COLOURS = (
    (31, 119, 180),
    (214, 92, 20),
    (44, 140, 44),
    (150, 60, 160),
    (120, 90, 60),
    (90, 90, 90),
)
"""Of the series, in order."""

_BLACK, _GRID = (0, 0, 0), (222, 222, 222)
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 18, 34, 54
_FONT_SIZE = 14
_MAX_TICKS = 7


@dataclass(frozen=True)
class Axis:
    """One axis of a diagram.

    Attributes:
        label: What it shows, with its unit.
        low, high: Its ends.
        is_log: Logarithmic; both ends positive.
        is_binary: Logarithmic with powers of 2 as ticks.
    """

    label: str
    low: float
    high: float
    is_log: bool = False
    is_binary: bool = False

    def position(self, value: float) -> float:
        """Where a value lies between the ends: 0 to 1."""
        if self.is_log:
            value = max(value, self.low)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values between the ends; on a logarithmic axis 1, 2 and 5 times powers of 10."""
        if not self.is_log:
            return _linear_ticks(self.low, self.high)
        if self.is_binary:
            return self._powers(2)
        powers = self._powers(10)
        if len(powers) > 2:
            return powers
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = [m * 10.0**exponent for exponent in exponents for m in (1, 2, 5)]
        return [step for step in steps if self.low <= step <= self.high]

    def _powers(self, base: int) -> list[float]:
        first = math.ceil(math.log(self.low, base) - 1e-9)
        last = math.floor(math.log(self.high, base) + 1e-9)
        step = max(1, -(-(last - first + 1) // _MAX_TICKS))
        return [float(base) ** power for power in range(first, last + 1, step)]


def axis_over(
    values: Sequence[float], label: str, is_log: bool = False, is_binary: bool = False
) -> Axis:
    """An axis that holds all values; a linear one starts at 0.

    Args:
        values: At least one; positive on a logarithmic axis, not negative on a linear one.
        label, is_log, is_binary: See `Axis`.
    """
    low, high = min(values), max(values)
    if is_log:
        return Axis(label, low / 1.15, high * 1.15, True, is_binary)
    return Axis(label, 0.0, 1.05 * high or 1.0)


def line_plot(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_axis: Axis,
    y_axis: Axis,
    title: str = "",
    size: tuple[int, int] = (640, 420),
) -> Image.Image:
    """Lines with a mark at every point, and a legend.

    Args:
        series: Name -> points (x, y) in order of x; up to 6.
        x_axis, y_axis: The axes.
        title: Above the diagram.
        size: (width, height) in pixels.

    Returns:
        RGB.
    """
    picture, draw, box = _frame(x_axis, y_axis, title, size)
    for (_name, points), colour in zip(series.items(), COLOURS):
        path = [_place(box, x_axis.position(x), y_axis.position(y)) for x, y in points]
        if len(path) > 1:
            draw.line(path, fill=colour, width=2, joint="curve")
        for x, y in path:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    _legend(draw, box, list(series))
    return picture


def histogram(
    series: Mapping[str, Sequence[float]],
    edges: Sequence[float],
    x_axis: Axis,
    y_axis: Axis,
    title: str = "",
    size: tuple[int, int] = (640, 240),
) -> Image.Image:
    """Bars of several series on top of each other, and a legend.

    Args:
        series: Name -> height of each bin; up to 6.
        edges: Edges of the bins, one more than there are bins.
        x_axis, y_axis: The axes; the y axis has to hold the sums.
        title: Above the diagram.
        size: (width, height) in pixels.

    Returns:
        RGB.
    """
    picture, draw, box = _frame(x_axis, y_axis, title, size)
    below = [0.0] * (len(edges) - 1)
    for heights, colour in zip(series.values(), COLOURS):
        for index, height in enumerate(heights):
            if height <= 0:
                continue
            bottom = y_axis.position(below[index])
            below[index] += height
            left, low = _place(box, x_axis.position(edges[index]), bottom)
            right, high = _place(
                box, x_axis.position(edges[index + 1]), y_axis.position(below[index])
            )
            # A bar that is too low to be seen still gets one row of pixels.
            draw.rectangle(
                (left + 1, min(high, low - 1), max(right - 1, left + 1), low), fill=colour
            )
    _legend(draw, box, list(series))
    return picture


class _NamesAxis(Axis):
    """An axis without numbers."""

    def ticks(self) -> list[float]:
        return []


def bar_plot(
    values: Mapping[str, float],
    y_axis: Axis,
    title: str = "",
    size: tuple[int, int] = (640, 420),
) -> Image.Image:
    """One bar per name, with its value above.

    Args:
        values: Name -> height; at least one.
        y_axis: The axis of the heights; bars stand on its lower end.
        title: Above the diagram.
        size: (width, height) in pixels.

    Returns:
        RGB.
    """
    picture, draw, box = _frame(_NamesAxis("", 0, len(values)), y_axis, title, size)
    font = ImageFont.load_default(_FONT_SIZE)
    for index, ((name, value), colour) in enumerate(zip(values.items(), cycle(COLOURS))):
        middle, low = _place(box, (index + 0.5) / len(values), 0)
        left, high = _place(box, (index + 0.2) / len(values), y_axis.position(value))
        draw.rectangle((left, min(high, low - 1), 2 * middle - left, low), fill=colour)
        draw.text((middle, high - 4), short_number(value), fill=_BLACK, anchor="mb", font=font)
        draw.text((middle, low + 8), name, fill=_BLACK, anchor="ma", font=font)
    return picture


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width below each other, RGB."""
    sheet = Image.new(
        "RGB", (pictures[0].width, sum(picture.height for picture in pictures)), (255,) * 3
    )
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet


def short_number(value: float) -> str:
    """A number for people: 0.25, 12, 3.4k, 1.2M, 5G."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.4g}"


_Box = tuple[float, float, float, float]


def _place(box: _Box, x: float, y: float) -> tuple[float, float]:
    left, top, right, bottom = box
    return left + x * (right - left), bottom - y * (bottom - top)


def _frame(
    x_axis: Axis, y_axis: Axis, title: str, size: tuple[int, int]
) -> tuple[Image.Image, ImageDraw.ImageDraw, _Box]:
    """An empty diagram: title, grid, numbers and labels."""
    width, height = size
    picture = Image.new("RGB", size, (255,) * 3)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_FONT_SIZE)
    box = (_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
    left, top, right, bottom = box
    draw.text((left, _TOP / 2), title, fill=_BLACK, anchor="lm", font=font)
    for value in x_axis.ticks():
        x, _ = _place(box, x_axis.position(value), 0)
        draw.line((x, top, x, bottom), fill=_GRID)
        draw.text((x, bottom + 6), short_number(value), fill=_BLACK, anchor="ma", font=font)
    for value in y_axis.ticks():
        _, y = _place(box, 0, y_axis.position(value))
        draw.line((left, y, right, y), fill=_GRID)
        draw.text((left - 8, y), short_number(value), fill=_BLACK, anchor="rm", font=font)
    draw.rectangle(box, outline=_BLACK)
    draw.text(((left + right) / 2, height - 14), x_axis.label, fill=_BLACK, anchor="mm", font=font)
    label = Image.new("RGB", (height, _FONT_SIZE + 6), (255,) * 3)
    place = (height / 2, label.height / 2)
    ImageDraw.Draw(label).text(place, y_axis.label, fill=_BLACK, anchor="mm", font=font)
    picture.paste(label.rotate(90, expand=True).crop((0, 4, label.height, height - 4)), (2, 4))
    return picture, draw, box


def _legend(draw: ImageDraw.ImageDraw, box: _Box, names: Sequence[str]) -> None:
    """The series to the right above the diagram, beside the title."""
    font = ImageFont.load_default(_FONT_SIZE)
    x, y = box[2], _TOP / 2
    for name, colour in reversed(list(zip(names, COLOURS))):
        x -= font.getlength(name)
        draw.text((x, y), name, fill=_BLACK, anchor="lm", font=font)
        draw.rectangle((x - 16, y - 5, x - 6, y + 5), fill=colour)
        x -= 32


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / (_MAX_TICKS - 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * m for m in (1, 2, 5, 10) if magnitude * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]
