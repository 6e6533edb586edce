"""Cropping, resizing and channel conversion for `dataset_tool.py`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from networks.shapes import fitting_shapes
from training.dataset_files import DatasetError

TRANSFORMS = ("center-crop", "center-crop-wide", "pad")
RESIZE_FILTERS = {"box": Image.Resampling.BOX, "lanczos": Image.Resampling.LANCZOS}
CHANNEL_NAMES = {1: "grey", 3: "RGB", 4: "RGBA"}


def force_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Converts to the given number of channels.

    Grey is the luma of ITU-R BT.601; from grey, all colours get the same value; transparent
    pictures are laid on white where their alpha is given up; where it is new, it is opaque.

    Args:
        pixels: uint8 [H, W, 1 | 3 | 4].
        channels: 1 = grey, 3 = RGB, 4 = RGBA.

    Returns:
        uint8 [H, W, channels]; the argument itself if it has as many.
    """
    if pixels.shape[2] == channels:
        return pixels
    image = _to_image(pixels)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return _from_image(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """Brings pictures to one size.

    Attributes:
        kind: None = resize to width x height, without regard to the aspect.
            "center-crop" = cut out the largest centred rectangle with the aspect width:height,
            then resize it. "center-crop-wide" = cut the height to round(width H / W), resize to
            width x height and put that centred on a black width x width square; pictures smaller
            than this are dropped.
            "pad" = put the picture centred on a canvas of width x height that is black, and
            transparent if the picture has an alpha channel. Pictures that do not fit are shrunk
            first, both sides alike; none is enlarged. Without width and height, the canvas is the
            smallest one that training takes.
        width: In pixels. None = that of each picture; needed with "center-crop...".
        height: Likewise.
        resize_filter: "box" or "lanczos".
    """

    kind: str | None = None
    width: int | None = None
    height: int | None = None
    resize_filter: str = "lanczos"

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in TRANSFORMS:
            raise DatasetError(f"--transform={self.kind} is not one of {', '.join(TRANSFORMS)}")
        if self.resize_filter not in RESIZE_FILTERS:
            raise DatasetError(f"--resize-filter={self.resize_filter} is neither box nor lanczos")
        for option, size in [("width", self.width), ("height", self.height)]:
            if size is None and self.kind not in (None, "pad"):
                raise DatasetError(f"--transform={self.kind} needs --width and --height")
            if size is not None and size < 1:
                raise DatasetError(f"--{option}={size} must be at least 1 pixel")
        if self.kind == "pad" and (self.width is None) != (self.height is None):
            raise DatasetError("--transform=pad needs both --width and --height, or neither")
        if self.kind == "center-crop-wide" and self.height > self.width:
            raise DatasetError(
                f"--transform=center-crop-wide needs --height <= --width, "
                f"not {self.width}x{self.height}"
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray | None:
        """Transforms uint8 [H, W, C] to uint8 [H', W', C]; None = picture is to be dropped."""
        if self.kind == "center-crop":
            return self._center_crop(pixels)
        if self.kind == "center-crop-wide":
            return self._center_crop_wide(pixels)
        if self.kind == "pad":
            return self._pad(pixels)
        return self._resize(pixels, self.width or pixels.shape[1], self.height or pixels.shape[0])

    def _resize(self, pixels: np.ndarray, width: int, height: int) -> np.ndarray:
        if pixels.shape[:2] == (height, width):
            return pixels
        resample = RESIZE_FILTERS[self.resize_filter]
        return _from_image(_to_image(pixels).resize((width, height), resample))

    def _center_crop(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        crop_width = max(1, min(width, round(height * self.width / self.height)))
        crop_height = max(1, min(height, round(width * self.height / self.width)))
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        crop = pixels[top : top + crop_height, left : left + crop_width]
        return self._resize(crop, self.width, self.height)

    def _center_crop_wide(self, pixels: np.ndarray) -> np.ndarray | None:
        height, width, channels = pixels.shape
        crop_height = round(self.width * height / width)
        if width < self.width or crop_height < self.height:
            return None
        top = (height - crop_height) // 2
        crop = self._resize(pixels[top : top + crop_height], self.width, self.height)
        canvas = np.zeros([self.width, self.width, channels], np.uint8)
        top = (self.width - self.height) // 2
        canvas[top : top + self.height] = crop
        return canvas

    def _pad(self, pixels: np.ndarray) -> np.ndarray:
        height, width, channels = pixels.shape
        if self.width is None or self.height is None:
            canvas_height, canvas_width = fitting_shapes(height, width)[0]
        else:
            canvas_height, canvas_width = self.height, self.width
        shrink = min(1, canvas_height / height, canvas_width / width)
        height, width = (max(1, round(side * shrink)) for side in (height, width))
        canvas = np.zeros([canvas_height, canvas_width, channels], np.uint8)
        top, left = (canvas_height - height) // 2, (canvas_width - width) // 2
        canvas[top : top + height, left : left + width] = self._resize(pixels, width, height)
        return canvas


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(
        np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    )


def _from_image(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels
