"""Arrange pictures on sheets: drawing only, no networks."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP = 2
_MARGIN = 24
_PAPER = 255
_FRAME = (255, 64, 64)


def sample_sheet(rows: Sequence[Sequence[Image.Image]], scale: int = 2) -> Image.Image:
    """One row per class, its index in front.

    Args:
        rows: pictures of class 0, of class 1, ...; all of one size, all rows equally long.
        scale: enlargement, nearest neighbour.

    Returns:
        RGB.
    """
    side = rows[0][0].width * scale
    step = side + _GAP
    width = _MARGIN + len(rows[0]) * step
    sheet = Image.new("RGB", (width, len(rows) * step - _GAP), (_PAPER,) * 3)
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        middle = (_MARGIN / 2, y * step + side / 2)
        draw.text(middle, str(y), fill=0, anchor="mm", font=ImageFont.load_default(18))
        for x, picture in enumerate(row):
            large = picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (_MARGIN + x * step, y * step))
    return sheet


def comparison_sheet(small: Sequence[Image.Image], large: Sequence[Image.Image]) -> Image.Image:
    """Two rows: pictures enlarged by repeating pixels, and the same ones drawn at that size.

    Args:
        small: pictures of one size.
        large: the same pictures, drawn larger; decides the size on the sheet.

    Returns:
        RGB.
    """
    size = large[0].size
    enlarged = [picture.resize(size, Image.Resampling.NEAREST) for picture in small]
    return _rows([enlarged, list(large)])


def zoom_sheet(
    pictures: Sequence[Image.Image], region: tuple[float, float, float, float]
) -> Image.Image:
    """One row of views with the border of the image drawn into each.

    Args:
        pictures: all of one size, each showing `region`.
        region: (x0, y0, x1, y1) in units of the image, which is the unit square.

    Returns:
        RGB.
    """
    return _rows([[framed(picture, region) for picture in pictures]])


def framed(
    picture: Image.Image, region: tuple[float, float, float, float], width: int = 2
) -> Image.Image:
    """A view with the border of the image, the unit square, drawn into it.

    Args:
        picture: shows `region`.
        region: (x0, y0, x1, y1) in units of the image.
        width: of the line in pixels.

    Returns:
        RGB.
    """
    x0, y0, x1, y1 = (float(edge) for edge in region)
    view = picture.convert("RGB")
    left, right = ((edge - x0) / (x1 - x0) * view.width for edge in (0, 1))
    top, bottom = ((edge - y0) / (y1 - y0) * view.height for edge in (0, 1))
    ImageDraw.Draw(view).rectangle((left, top, right - 1, bottom - 1), outline=_FRAME, width=width)
    return view


def labelled_sheet(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Image.Image:
    """Rows of pictures with words above the columns and before the rows.

    Args:
        rows: pictures; all in one column are equally wide.
        columns: one text per column; empty = none.
        names: one text per row; empty = none.

    Returns:
        RGB.
    """
    font = ImageFont.load_default(16)
    left = max((round(font.getlength(name)) + 12 for name in names), default=0)
    top = _MARGIN if columns else 0
    # A column is at least as wide as what stands above it.
    texts = columns or [""] * len(rows[0])
    widths = [
        max(picture.width, round(font.getlength(text)) + 8) for picture, text in zip(rows[0], texts)
    ]
    heights = [max(picture.height for picture in row) for row in rows]
    gaps = (len(widths) - 1) * _GAP, (len(heights) - 1) * _GAP
    sheet = Image.new(
        "RGB", (left + sum(widths) + gaps[0], top + sum(heights) + gaps[1]), (_PAPER,) * 3
    )
    draw = ImageDraw.Draw(sheet)
    y = top
    for index, (row, height) in enumerate(zip(rows, heights)):
        if names:
            draw.text((left - 8, y + height / 2), names[index], fill=0, anchor="rm", font=font)
        x = left
        for picture, text, width in zip(row, texts, widths):
            if index == 0:
                draw.text((x + width / 2, top / 2), text, fill=0, anchor="mm", font=font)
            place = (x + (width - picture.width) // 2, y + (height - picture.height) // 2)
            sheet.paste(picture.convert("RGB"), place)
            x += width + _GAP
        y += height + _GAP
    return sheet


def enlarged(picture: Image.Image, smallest_side: int) -> Image.Image:
    """The picture with every pixel repeated as often as its shorter side needs to be so long."""
    times = -(-smallest_side // min(picture.size))
    if times <= 1:
        return picture
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def overview(samples: Image.Image, comparison: Image.Image, zoom: Image.Image) -> Image.Image:
    """The three sheets side by side: samples left, the others right, all at the same height.

    Returns:
        RGB, as high as `samples`.
    """
    height = samples.height
    right_width = round((height - _MARGIN) / (comparison.height + zoom.height) * zoom.width)
    right = []
    for sheet in (comparison, zoom):
        scaled_height = round(sheet.height * right_width / sheet.width)
        right.append(sheet.resize((right_width, scaled_height), Image.Resampling.LANCZOS))
    page = Image.new("RGB", (samples.width + _MARGIN + right_width, height), (_PAPER,) * 3)
    page.paste(samples, (0, 0))
    page.paste(right[0], (samples.width + _MARGIN, 0))
    page.paste(right[1], (samples.width + _MARGIN, height - right[1].height))
    return page


def _rows(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    sheet = Image.new(
        "RGB",
        (len(rows[0]) * (width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP),
        (_PAPER,) * 3,
    )
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture.convert("RGB"), (x * (width + _GAP), y * (height + _GAP)))
    return sheet
