"""Pictures in a folder or a zip archive: which they are, and the rule from file to pixels.

Shared by `training.dataset` (reading while training) and `dataset_tool.py` (preparing), so that
both see the same pictures. Imports no torch.
"""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

import dnnlib

# Pillow lists these as readable, but only recognises them, needs an external program, or
# needs Windows to decode them.
_UNDECODABLE_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# Colour mode of a file -> colour mode of its pixels, where the channel count is not obvious.
# "P" (palette) depends on whether the palette has transparency, see `_pixel_mode`.
_PIXEL_MODES = {
    "1": "L",
    "L": "L",
    "I;16": "L",
    "I;16L": "L",
    "I;16B": "L",
    "I;16N": "L",
    "I": "L",
    "LA": "RGBA",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
}
_ORIENTATION_TAG = 0x0112

_Result = TypeVar("_Result")


class DatasetError(dnnlib.UserError, OSError):
    """A dataset cannot be read or written; the message is one sentence with path and cure.

    Also an `OSError` (`IOError`), which is what scripts written for StyleGAN2-ADA catch.
    """

    def __init__(self, message: str) -> None:
        # torch's DataLoader builds the error of a worker process anew, from its traceback as
        # text. The last line of that is the sentence.
        if "Original Traceback" in message:
            message = message.rstrip().rsplit(f"{type(self).__name__}: ", 1)[-1]
        super().__init__(message)


@functools.lru_cache(maxsize=1)
def picture_extensions() -> frozenset[str]:
    """File name extensions, lower case with dot, of the formats Pillow can decode here."""
    Image.init()
    return frozenset(
        extension
        for extension, kind in Image.EXTENSION.items()
        if kind in Image.OPEN and kind not in _UNDECODABLE_FORMATS
    )


def is_picture(name: str) -> bool:
    """Whether a file of this name counts as a picture.

    The copies of file attributes that macOS leaves in folders and archives (`._a.png`,
    `__MACOSX/`) carry picture names but hold no picture, so they do not count.
    """
    base = name.rsplit("/", 1)[-1]
    if base.startswith("._") or name.startswith("__MACOSX/"):
        return False
    return os.path.splitext(base)[1].lower() in picture_extensions()


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; asks PNG files only where it costs no decoding."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(_ORIENTATION_TAG, 1)


def _pixel_mode(image: Image.Image) -> str:
    """Colour mode "L", "RGB" or "RGBA" that the pixels of this picture are given in."""
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    if image.mode not in _PIXEL_MODES:
        raise ValueError(f"colour mode {image.mode} is not supported, save it as RGB")
    return _PIXEL_MODES[image.mode]


def _shape(image: Image.Image) -> tuple[int, int, int]:
    width, height = image.size
    if _orientation(image) >= 5:  # 5..8 swap the axes
        width, height = height, width
    return height, width, len(_pixel_mode(image))


def _grey16_to_grey8(values: np.ndarray) -> np.ndarray:
    """16-bit grey levels to 8-bit ones: round(value * 255 / 65535)."""
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError("grey levels outside 0..65535, save it with 8 or 16 bits per channel")
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)


def _pixels(image: Image.Image) -> np.ndarray:
    mode = _pixel_mode(image)
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        pixels = _grey16_to_grey8(np.asarray(image))
    else:
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


_ADVICE = "replace the file or take it out of the set"


def _decode(
    action: Callable[[Image.Image], _Result], data: bytes, name: str, advice: str = _ADVICE
) -> _Result:
    # Pillow's decoders raise nearly every exception type for broken data (OSError, ValueError,
    # SyntaxError, struct.error, ...), and the cure is the same for all of them.
    try:
        with Image.open(BytesIO(data)) as image:
            return action(image)
    except Image.UnidentifiedImageError:
        reason = "the data is not a picture of a known format"
    except Exception as error:
        reason = str(error) or type(error).__name__
    raise DatasetError(f'cannot decode picture "{name}": {reason}; {advice}')


def decode_picture(data: bytes, name: str, advice: str = _ADVICE) -> np.ndarray:
    """Decodes one picture file to 8-bit pixels.

    Grey stays one channel and RGB three. Transparency makes four (RGBA), also for palettes and
    for grey with alpha. Black-and-white becomes 0 and 255; palette, CMYK, YCbCr and HSV become
    RGB; 16-bit grey is scaled by 255/65535 and rounded. The EXIF orientation is applied, and of
    an animation the first frame is taken.

    Args:
        data: The file's content.
        name: What to call the picture in an error message.
        advice: The end of that message: what the user can do.

    Returns:
        uint8 [height, width, channels], channels 1, 3 or 4.

    Raises:
        DatasetError: if the data is broken or of an unsupported colour mode.
    """
    return _decode(_pixels, data, name, advice)


def picture_shape(data: bytes, name: str) -> tuple[int, int, int]:
    """(height, width, channels) that `decode_picture` would give, from the header alone."""
    return _decode(_shape, data, name)


class PictureFiles:
    """The files below a folder, or in a zip archive, by relative name with "/" as separator.

    May be shared by threads, forked into child processes and pickled into new ones: each process
    opens the archive for itself (a handle shared over a fork shares its file position, so that
    readers get each other's bytes).

    Attributes:
        path: The folder or archive, as given.
        kind: "folder" or "zip".
        names: Sorted names of all files.
        picture_names: Those of `names` that are pictures.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid = -1
        if os.path.isdir(self.path):
            self.kind = "folder"
            self.names = self._list_folder()
        elif self.path.lower().endswith(".zip") and os.path.isfile(self.path):
            self.kind = "zip"
            self.names = sorted({n for n in self._archive().namelist() if not n.endswith("/")})
        elif os.path.exists(self.path):
            raise DatasetError(f'"{self.path}" is neither a folder nor a .zip file of pictures')
        else:
            raise DatasetError(f'"{self.path}" does not exist; give a folder or a .zip file')
        self.picture_names = [name for name in self.names if is_picture(name)]

    def require_pictures(self) -> None:
        """Raises DatasetError if there is no picture at all."""
        if not self.picture_names:
            raise DatasetError(
                f'no pictures (.png, .jpg, ...) among the {len(self.names)} files of "{self.path}"'
            )

    def read(self, name: str) -> bytes:
        """The content of one file; DatasetError if it is not there or cannot be read."""
        try:
            if self.kind == "zip":
                return self._archive().read(name)
            with open(os.path.join(self.path, *name.split("/")), "rb") as file:
                return file.read()
        except DatasetError:
            raise
        except Exception as error:  # damaged archives raise as many types as damaged pictures
            raise DatasetError(
                f'cannot read "{self.full_name(name)}": {error}; replace the file or take it out'
            ) from error

    def read_head(self, name: str, size: int) -> bytes:
        """Up to `size` bytes from the start of one file, for looking at headers."""
        try:
            if self.kind == "zip":
                with self._archive().open(name) as file:
                    return file.read(size)
            with open(os.path.join(self.path, *name.split("/")), "rb") as file:
                return file.read(size)
        except (OSError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise DatasetError(f'cannot read "{self.full_name(name)}": {error}') from error

    def read_picture(self, name: str) -> np.ndarray:
        """Pixels of one picture, uint8 [height, width, channels], see `decode_picture`."""
        return decode_picture(self.read(name), self.full_name(name))

    def full_name(self, name: str) -> str:
        """Path of a file for messages; of a file in an archive, the archive's path comes first."""
        return f"{self.path}/{name}"

    def close(self) -> None:
        """Closes the archive; the next read opens it again."""
        if self._zip is not None:
            self._zip.close()
            self._zip = None

    def _list_folder(self) -> list[str]:
        names = []
        for root, _dirs, files in os.walk(self.path):
            below = os.path.relpath(root, self.path).replace(os.sep, "/")
            names += files if below == "." else [f"{below}/{file}" for file in files]
        return sorted(names)

    def _archive(self) -> zipfile.ZipFile:
        if self._zip is None or self._zip_pid != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
                raise DatasetError(
                    f'"{self.path}" cannot be read as a zip archive ({error}); '
                    "copy or download it again, or rebuild it with dataset_tool.py"
                ) from error
            self._zip_pid = os.getpid()
        return self._zip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_zip_pid": -1}
