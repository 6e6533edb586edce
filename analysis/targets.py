"""Pictures that networks are to match. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import dnnlib
from training.dataset_files import decode_picture
from training.dataset_transform import CHANNEL_NAMES, force_channels


def read_picture(path: str, option: str = "--target") -> np.ndarray:
    """Read a picture file: uint8 [height, width, 1, 3 or 4].

    Args:
        path: The file.
        option: The option that named it, for messages.

    Raises:
        dnnlib.UserError: The file is missing or damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise dnnlib.UserError(f"{option}={path} cannot be read: {error.strerror}.") from error
    try:
        return decode_picture(content, path, advice="give another picture")
    except dnnlib.UserError as error:
        raise dnnlib.UserError(f"{option}={path}: {error}") from error


def read_channels(path: str, channels: int, option: str = "--target") -> np.ndarray:
    """Read a picture file as a network draws its images: uint8 [height, width, channels].

    Args:
        path: The file.
        channels: Wanted. Where they give up transparency, the picture is laid on white.
        option: The option that named it, for messages.

    Raises:
        dnnlib.UserError: The file is missing or damaged, or no picture has that many channels.
    """
    if channels not in CHANNEL_NAMES:
        raise dnnlib.UserError(
            f"This network draws images of {channels} channels; a picture has 1, 3 or 4."
        )
    return force_channels(read_picture(path, option), channels)
