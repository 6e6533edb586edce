"""Signals of one, two or three coordinates as files: sound, pictures, film and volumes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

import dnnlib
from dnnlib.errors import FileError
from torch_utils.images import write_image

KINDS = {1: "sound", 2: "image", 3: "volume"}
"""Names of the signals by the number of their coordinates; films are volumes."""

SUFFIXES = {1: ".wav", 2: ".png", 3: ".npy"}
"""Of the files that `write_signal` makes."""

MAX_CHANNELS = 8
FRAME_MILLISECONDS = 80
_PICTURE_MODES = ("L", "RGB", "RGBA")
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Signal:
    """Samples of a function of one, two or three coordinates.

    Attributes:
        name: The file's, without folder and suffix.
        values: float32 [C, W], [C, H, W] or [C, D, H, W] in [-peak, peak].
        rate: Samples per second of a sound, else None.
        peak: 1; of a sound its largest absolute value, at least 2^-15.
    """

    name: str
    values: np.ndarray
    rate: int | None = None
    peak: float = 1.0

    @property
    def num_coords(self) -> int:
        """1, 2 or 3."""
        return self.values.ndim - 1


def read_signal(path: str, option: str = "--data") -> Signal:
    """Read a sound (.wav), a picture, a film (a picture file of several frames) or a volume (.npy).

    Volumes are uint8 or floats in [-1, 1], [D, H, W] or [D, H, W, C], C up to 4.

    Raises:
        dnnlib.UserError: No such file, or not one of these.
    """
    reader = {".wav": _read_sound, ".npy": _read_volume}.get(Path(path).suffix.lower(), _read_film)
    try:
        signal = reader(Path(path).stem, path)
    except OSError as error:
        reason = error.strerror or "not a picture, .wav or .npy file"
        raise dnnlib.UserError(f"{option}={path}: {reason}.") from error
    except (ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise dnnlib.UserError(f"{option}={path}: {reason}.") from error
    sides = signal.values.shape[1:]
    if max(sides, default=0) < 4 or min(sides) < 1:
        size = "x".join(map(str, reversed(sides)))
        raise dnnlib.UserError(f"{option}={path}: {size} samples are fewer than 4 along a side.")
    if signal.values.shape[0] > MAX_CHANNELS:
        raise dnnlib.UserError(f"{option}={path}: more than {MAX_CHANNELS} channels.")
    if not np.isfinite(signal.values).all():
        raise dnnlib.UserError(f"{option}={path}: holds values that are not finite.")
    return signal


def write_signal(path: Path, signal: Signal) -> None:
    """Write a sound as 16-bit .wav, an image as picture, a volume as uint8 .npy [D, H, W, C].

    Values beyond [-1, 1] are clipped.

    Raises:
        FileError: The file cannot be written.
    """
    if signal.num_coords == 2:
        write_image(path, to_pixels(signal.values))
        return
    if signal.num_coords == 3:
        pixels = to_pixels(signal.values)
        _write(path, lambda file: np.save(file, pixels, allow_pickle=False))
        return
    from scipy.io import wavfile

    samples = np.rint(signal.values.clip(-1, 1) * (2**15 - 1)).astype(np.int16).T
    _write(path, lambda file: wavfile.write(file, signal.rate, samples))


def write_film(path: Path, values: np.ndarray) -> None:
    """Write [C, D, H, W] as an animated PNG, slice after slice.

    Raises:
        FileError: The file cannot be written.
    """
    frames = [frame_picture(values, index) for index in range(values.shape[1])]
    options = {"save_all": True, "append_images": frames[1:], "duration": FRAME_MILLISECONDS}
    _write(path, lambda file: frames[0].save(file, "PNG", loop=0, **options))


def to_pixels(values: np.ndarray) -> np.ndarray:
    """[C, ...] in [-1, 1] as uint8 [..., C]."""
    pixels = np.rint((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return np.moveaxis(pixels, 0, -1)


def frame_picture(values: np.ndarray, index: int) -> Image.Image:
    """Slice z = index of [C, D, H, W] as a picture; the first channel alone if C is 2."""
    pixels = to_pixels(values[:, index])
    channels = pixels.shape[-1]
    return Image.fromarray(pixels if channels in (3, 4) else np.ascontiguousarray(pixels[..., 0]))


def check_alike(signals: Sequence[Signal], option: str = "--data") -> None:
    """Raises a `dnnlib.UserError` unless all signals have one shape and one rate."""
    first = signals[0]
    for other in signals[1:]:
        if (other.values.shape, other.rate) != (first.values.shape, first.rate):
            raise dnnlib.UserError(
                f"{option}: {other.name} ({describe(other)}) does not go with {first.name} "
                f"({describe(first)}); one network draws signals of one kind and size."
            )


def describe(signal: Signal) -> str:
    """Kind and size in words: `image of 64x48 samples and 3 channels`."""
    size = "x".join(map(str, reversed(signal.values.shape[1:])))
    rate = "" if signal.rate is None else f" at {signal.rate} Hz"
    channels = signal.values.shape[0]
    plural = "" if channels == 1 else "s"
    return f"{KINDS[signal.num_coords]} of {size} samples{rate} and {channels} channel{plural}"


def _read_sound(name: str, path: str) -> Signal:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        rate, samples = wavfile.read(path)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float64) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    values = np.ascontiguousarray(samples.reshape(len(samples), -1).T, np.float32)
    if not values.size:
        raise ValueError("a sound without samples")
    return Signal(name, values, int(rate), max(float(np.abs(values).max()), 2.0**-15))


def _read_volume(name: str, path: str) -> Signal:
    array = np.load(path, allow_pickle=False)
    if array.ndim not in (3, 4) or (array.ndim == 4 and not 1 <= array.shape[3] <= 4):
        raise ValueError(
            f"an array of shape {list(array.shape)}, not [D, H, W] or [D, H, W, C <= 4]"
        )
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(f"an array of {array.dtype}; a volume holds uint8, or floats in [-1, 1]")
    values = array.reshape(*array.shape[:3], -1).astype(np.float32)
    if array.dtype == np.uint8:
        values = values / 127.5 - 1
    elif np.abs(values).max(initial=0) > 1:
        raise ValueError("floats beyond [-1, 1]")
    return Signal(name, np.ascontiguousarray(np.moveaxis(values, -1, 0)))


def _read_film(name: str, path: str) -> Signal:
    with Image.open(path) as picture:
        if picture.mode in _DEEP_MODES:
            raise ValueError(f"pixels of mode {picture.mode}; pictures have 8 bits per channel")
        kept = picture.mode if picture.mode in _PICTURE_MODES else "RGB"
        frames = [np.asarray(frame.convert(kept)) for frame in ImageSequence.Iterator(picture)]
    if len({frame.shape for frame in frames}) != 1:
        raise ValueError("frames of different sizes")
    stack = np.stack(frames).reshape(len(frames), *frames[0].shape[:2], -1)
    values = np.moveaxis(stack, -1, 0).astype(np.float32) / 127.5 - 1
    return Signal(name, np.ascontiguousarray(values[:, 0] if len(frames) == 1 else values))


def _write(path: str | os.PathLike[str], save: Callable[[Any], None]) -> None:
    try:
        with dnnlib.util.atomic_path(path) as temporary, open(temporary, "wb") as file:
            save(file)
    except OSError as error:
        raise FileError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error
