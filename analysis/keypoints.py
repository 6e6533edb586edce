"""Where keypoints of pictures come from: a TorchScript model, a package, or files."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import dnnlib
from torch_utils import array_file

FACE_ALIGNMENT = "face-alignment"
_FACE_POINTS = 68


class Extractor(Protocol):
    """Finds the same K keypoints in every picture."""

    def __call__(self, images: Tensor) -> np.ndarray:
        """Find keypoints.

        Args:
            images: uint8 [N, 3, H, W].

        Returns:
            float64 [N, K, 2], (x, y) in pixels; nan for pictures in which nothing was found.
        """


def load_extractor(source: str, device: torch.device) -> Extractor:
    """The extractor that an option names.

    Args:
        source: "face-alignment", or a TorchScript file.
        device: Where to compute.

    Raises:
        dnnlib.UserError: There is no such package or file, or it is not TorchScript.
    """
    if source == FACE_ALIGNMENT:
        return FaceAlignment(device)
    return TorchScript(source, device)


class TorchScript:
    """A TorchScript model: float32 [N, 3, H, W] in [0, 255] -> [N, K, 2], (x, y) in pixels.

    Args:
        path: The file.
        device: Where to compute.

    Raises:
        dnnlib.UserError: The file is not there, or is not TorchScript.
    """

    def __init__(self, path: str, device: torch.device) -> None:
        self._path = path
        self._device = device
        if not os.path.isfile(path):
            raise dnnlib.UserError(
                f"--keypoints={path}: there is no such file; name an .npz file, a TorchScript "
                f"model, or {FACE_ALIGNMENT}."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, but cannot do harm
            try:
                self._model = torch.jit.load(path, map_location=device).eval()
            except (RuntimeError, ValueError) as error:
                raise dnnlib.UserError(f"--keypoints={path} is no TorchScript model.") from error

    def __call__(self, images: Tensor) -> np.ndarray:
        """See `Extractor`.

        Raises:
            dnnlib.UserError: The model does not take such pictures, or does not give keypoints.
        """
        try:
            with torch.inference_mode():
                found = self._model(images.to(self._device, torch.float32))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise dnnlib.UserError(
                f"--keypoints={self._path} fails on pictures {list(images.shape)}: {reason}"
            ) from error
        fits = isinstance(found, Tensor) and found.ndim == 3 and found.shape[1] > 0
        if not fits or (len(found), found.shape[2]) != (len(images), 2):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise dnnlib.UserError(
                f"--keypoints={self._path} gives {shape} for {len(images)} pictures; keypoints are "
                f"[{len(images)}, K, 2]."
            )
        return found.cpu().to(torch.float64).numpy()


class FaceAlignment:
    """68 points of the first face that the package face-alignment finds (Bulat et al., 2017).

    Args:
        device: Where to compute.

    Raises:
        dnnlib.UserError: The package is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            package = importlib.import_module("face_alignment")
        except ImportError as error:
            raise dnnlib.UserError(
                f"--keypoints={FACE_ALIGNMENT}: the package is missing; pip install "
                f"{FACE_ALIGNMENT}."
            ) from error
        kinds = package.LandmarksType
        # The name changed with version 1.3.5.
        kind = kinds.TWO_D if hasattr(kinds, "TWO_D") else kinds._2D
        self._model: Any = package.FaceAlignment(kind, device=str(device), flip_input=False)

    def __call__(self, images: Tensor) -> np.ndarray:
        """See `Extractor`."""
        found = np.full([len(images), _FACE_POINTS, 2], np.nan)
        for index, image in enumerate(images):
            faces = self._model.get_landmarks_from_image(image.permute(1, 2, 0).cpu().numpy())
            if faces is not None and len(faces) > 0:
                found[index] = np.asarray(faces[0], np.float64)[:, :2]
        return found


def read_arrays(path: str, option: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz file.

    Args:
        path: The file.
        option: The option that named it, for messages.

    Raises:
        dnnlib.UserError: Not such a file.
    """
    try:
        return array_file.read_arrays(path)
    except FileNotFoundError as error:
        raise dnnlib.UserError(f"{option}={path}: there is no such file.") from error
    except ValueError as error:
        raise dnnlib.UserError(
            f"{option}={path} is not an .npz file of arrays: {error}."
        ) from error


def keypoint_array(arrays: Mapping[str, np.ndarray], what: str) -> np.ndarray:
    """The array `keypoints` of a file, checked: float64 [N, K, 2] in units of the picture.

    Args:
        arrays: Of the file.
        what: Names it in messages.

    Raises:
        dnnlib.UserError: It is not there or has another shape.
    """
    points = arrays.get("keypoints")
    if points is None or points.ndim != 3 or points.shape[2] != 2 or 0 in points.shape:
        found = "nothing" if points is None else f"shape {list(points.shape)}"
        raise dnnlib.UserError(
            f"{what} needs an array keypoints [N, K, 2], (x, y) from 0 to 1; it has {found}."
        )
    if points.dtype.kind not in "fiu":
        raise dnnlib.UserError(f"{what}: keypoints are numbers, not {points.dtype}.")
    return points.astype(np.float64)
