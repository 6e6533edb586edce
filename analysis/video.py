"""Write pictures as a film, where a film encoder is installed.

The encoder comes with the package imageio-ffmpeg, which is optional.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable

import numpy as np

import dnnlib
from dnnlib.errors import FileError

INSTALL_HINT = "pip install imageio-ffmpeg"


def can_write_video() -> bool:
    """Whether the encoder is there."""
    try:
        for package in ("imageio.v2", "imageio_ffmpeg"):
            importlib.import_module(package)
    except ImportError:
        return False
    return True


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float = 10,
    bitrate: str = "16M",
) -> None:
    """Write an MP4 file (H.264, 4:2:0). A crash leaves no half file.

    Args:
        path: Ends in `.mp4`; the folder must exist.
        frames: uint8 [H, W, 3], all of one size; read one at a time. Odd sides are extended by one
            pixel, because colours are stored per 2 x 2 pixels.
        fps: Frames per second.
        bitrate: Upper end of the data rate, as ffmpeg spells it.

    Raises:
        FileError: The film cannot be written.
    """
    import imageio.v2 as imageio

    try:
        with dnnlib.util.atomic_path(path) as temporary:
            # macro_block_size=1: imageio would else stretch the frames to multiples of 16.
            writer = imageio.get_writer(
                temporary,
                format="FFMPEG",
                mode="I",
                fps=fps,
                codec="libx264",
                bitrate=bitrate,
                macro_block_size=1,
            )
            with writer:
                for frame in frames:
                    writer.append_data(even_sides(frame))
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FileError(f"cannot write the video {os.fspath(path)!r}: {reason[-1]}") from error


def even_sides(frame: np.ndarray) -> np.ndarray:
    """Repeat the last row and column of [H, W, C] where that makes an odd side even."""
    height, width = frame.shape[:2]
    return np.pad(frame, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
