"""Sets of pictures to train on: `ImageFolderDataset` reads a folder or a zip archive.

Keyword arguments and properties are those of StyleGAN2-ADA. Pictures are uint8 [C, H, W], labels
float32 [label_dim]. Any number of worker processes may read the same object, whatever their start
method.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import torch

from dnnlib import EasyDict
from training.dataset_files import DatasetError, PictureFiles, decode_picture, picture_shape
from training.dataset_labels import label_array, missing_labels_message, read_label_file

try:
    import pyspng  # optional: decodes PNG about twice as fast as Pillow
except ImportError:
    pyspng = None

__all__ = ["Dataset", "DatasetError", "ImageFolderDataset"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 6: 4}  # PNG colour type -> channels, where no conversion is needed


class Dataset(torch.utils.data.Dataset):
    """Base of all sets: subset, x-flips, labels and their checks.

    A subclass implements `_load_raw_image(raw_idx)` (uint8 [C, H, W]), `_load_raw_labels()`
    (int64 [N], float32 [N, D] or None) and, if it holds files, `close()`.

    Args:
        name: Name of the set, used for the run directory.
        raw_shape: [N, C, H, W] of the whole set.
        max_size: Use only so many pictures, chosen at random. None = all.
        use_labels: Give labels; False = labels of dimension 0.
        xflip: Double the set by mirror images; applied after `max_size`.
        random_seed: Seed of the choice made for `max_size`.
    """

    def __init__(
        self,
        name: str,
        raw_shape: list[int],
        max_size: int | None = None,
        use_labels: bool = False,
        xflip: bool = False,
        random_seed: int = 0,
    ) -> None:
        if max_size is not None and max_size < 1:
            raise DatasetError(f"a set needs at least one picture, max_size is {max_size}")
        self._name = name
        self._raw_shape = list(raw_shape)
        self._use_labels = use_labels
        self._raw_labels: np.ndarray | None = None

        self._raw_idx = np.arange(self._raw_shape[0], dtype=np.int64)
        if max_size is not None and self._raw_idx.size > max_size:
            np.random.RandomState(random_seed).shuffle(self._raw_idx)
            self._raw_idx = np.sort(self._raw_idx[:max_size])
        self._xflip = np.zeros(self._raw_idx.size, dtype=np.uint8)
        if xflip:
            self._raw_idx = np.tile(self._raw_idx, 2)
            self._xflip = np.concatenate([self._xflip, np.ones_like(self._xflip)])

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        """Picture `raw_idx` of the whole set, uint8 [C, H, W]."""
        raise NotImplementedError(f"{type(self).__name__} must implement _load_raw_image")

    def _load_raw_labels(self) -> np.ndarray | None:
        """Labels of the whole set: int64 [N], float32 [N, D], or None = no labels."""
        raise NotImplementedError(f"{type(self).__name__} must implement _load_raw_labels")

    def _no_labels_message(self) -> str:
        return f'labels were asked for, but "{self.name}" has none'

    def _labels_or_none(self) -> np.ndarray | None:
        """Checked labels of the whole set, loaded once; None = not asked for, or none there."""
        if self._raw_labels is None and self._use_labels:
            labels = self._load_raw_labels()
            if labels is not None and labels.shape[0] != self._raw_shape[0]:
                raise ValueError(f"{labels.shape[0]} labels for {self._raw_shape[0]} pictures")
            if labels is not None and labels.dtype not in (np.int64, np.float32):
                raise TypeError(f"labels must be int64 or float32, not {labels.dtype}")
            if labels is not None and labels.dtype == np.int64 and labels.min() < 0:
                raise DatasetError(f'class ids of "{self.name}" must be >= 0, not {labels.min()}')
            self._raw_labels = labels
        return self._raw_labels

    def _get_raw_labels(self) -> np.ndarray:
        labels = self._labels_or_none()
        if labels is None:
            if self._use_labels:
                raise DatasetError(self._no_labels_message())
            labels = np.zeros([self._raw_shape[0], 0], dtype=np.float32)
        return labels

    def close(self) -> None:
        """Releases files; reading again opens them again."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_raw_labels": None}

    def __len__(self) -> int:
        return self._raw_idx.size

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture, uint8 [C, H, W], a copy of its own, and label, float32 [label_dim]."""
        raw_idx = int(self._raw_idx[idx])
        image = self._load_raw_image(raw_idx)
        if list(image.shape) != self.image_shape or image.dtype != np.uint8:
            raise DatasetError(
                f'picture {raw_idx} of "{self.name}" is {image.dtype} {list(image.shape)}, '
                f"the set is uint8 {self.image_shape}"
            )
        if self._xflip[idx]:
            image = image[:, :, ::-1]
        return image.copy(), self.get_label(idx)

    def get_label(self, idx: int) -> np.ndarray:
        """Label of picture `idx`, float32 [label_dim]; class ids as one-hot vectors."""
        labels = self._get_raw_labels()
        label = labels[self._raw_idx[idx]]
        if labels.dtype == np.int64:
            onehot = np.zeros(self.label_shape, dtype=np.float32)
            onehot[label] = 1
            return onehot
        return label.copy()

    def get_details(self, idx: int) -> EasyDict:
        """raw_idx (int), xflip (bool) and raw_label (as stored) of picture `idx`."""
        raw_idx = int(self._raw_idx[idx])
        return EasyDict(
            raw_idx=raw_idx,
            xflip=bool(self._xflip[idx]),
            raw_label=self._get_raw_labels()[raw_idx].copy(),
        )

    @property
    def name(self) -> str:
        """Name of the set."""
        return self._name

    @property
    def image_shape(self) -> list[int]:
        """[C, H, W] of every picture."""
        return list(self._raw_shape[1:])

    @property
    def num_channels(self) -> int:
        """C of every picture."""
        return self.image_shape[0]

    @property
    def resolution(self) -> int:
        """Longer side of the pictures in pixels, max(H, W); `image_shape` tells both."""
        return max(self.image_shape[1:])

    @property
    def label_shape(self) -> list[int]:
        """[number of classes] for class ids, [D] for vectors, [0] without labels."""
        labels = self._get_raw_labels()
        if labels.dtype == np.int64:
            return [int(labels.max()) + 1]
        return list(labels.shape[1:])

    @property
    def label_dim(self) -> int:
        """Number of entries of a label as given by `get_label`."""
        (dim,) = self.label_shape
        return dim

    @property
    def has_labels(self) -> bool:
        """Whether labels were asked for and are there; reads no picture and never decodes."""
        return self._labels_or_none() is not None and self.label_dim != 0

    @property
    def has_onehot_labels(self) -> bool:
        """Whether labels are class ids."""
        return self._get_raw_labels().dtype == np.int64


class ImageFolderDataset(Dataset):
    """Pictures of a folder, with all its sub-folders, or of a zip archive, in order of name.

    Labels come from `dataset.json` at the root: `{"labels": [[name, label], ...]}`.

    Args:
        path: The folder or .zip file.
        resolution: Required size in pixels: one number for squares, or (height, width). None =
            whatever the pictures have.
        cache_bytes: Each process keeps the decoded pictures in memory if the whole set needs at
            most this much. 0 = never.
        **kwargs: See `Dataset`: max_size, use_labels, xflip, random_seed.

    Raises:
        DatasetError: if there is nothing readable at `path`, or of another size.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int | Sequence[int] | None = None,
        cache_bytes: int = 256 << 20,
        **kwargs: Any,
    ) -> None:
        self._path = os.fspath(path)
        self._files = PictureFiles(self._path)
        self._files.require_pictures()
        self._image_fnames = self._files.picture_names
        self._cache: dict[int, np.ndarray] = {}

        shape = list(self._decode(0).shape)
        wanted = [resolution] * 2 if isinstance(resolution, int) else resolution
        if wanted is not None and shape[1:] != list(wanted):
            raise DatasetError(
                f'pictures of "{self._path}" are {shape[2]}x{shape[1]} (width x height), '
                f"but {wanted[1]}x{wanted[0]} was asked for"
            )
        name = os.path.splitext(os.path.basename(os.path.normpath(self._path)))[0]
        super().__init__(name=name, raw_shape=[len(self._image_fnames), *shape], **kwargs)
        num_used = np.unique(self._raw_idx).size
        self._caching = num_used * int(np.prod(shape)) <= cache_bytes

    def verify(self) -> None:
        """Checks the header of every picture, so that a long training does not find out later.

        Raises:
            DatasetError: naming the first picture that is broken or of another shape.
        """
        for name in self._image_fnames:
            head = self._files.read_head(name, 32)
            if _is_plain_png(head):
                width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
                shape = [_PNG_CHANNELS[head[25]], height, width]
            else:
                height, width, channels = picture_shape(
                    self._files.read(name), self._files.full_name(name)
                )
                shape = [channels, height, width]
            if shape != self.image_shape:
                raise DatasetError(self._odd_shape_message(name, shape))

    @property
    def provenance(self) -> dict[str, Any]:
        """How `dataset_tool.py` made the set (source, transform, resize filter, ...), or {}."""
        noted = read_label_file(self._files).get("provenance")
        return noted if isinstance(noted, dict) else {}

    def close(self) -> None:
        """Closes the archive; reading again opens it again."""
        self._files.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_cache": {}}

    def _open_file(self, fname: str) -> BinaryIO:
        """Any file of the set by its name; for subclasses that read files of their own."""
        return BytesIO(self._files.read(fname))

    def _decode(self, raw_idx: int) -> np.ndarray:
        name = self._image_fnames[raw_idx]
        data = self._files.read(name)
        if pyspng is not None and _is_plain_png(data) and not _has_special_chunks(data):
            # Where pyspng fails, Pillow either manages or says what is wrong.
            with contextlib.suppress(RuntimeError, ValueError):
                pixels = pyspng.load(data)
                return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
        return decode_picture(data, self._files.full_name(name)).transpose(2, 0, 1)

    def _load_raw_image(self, raw_idx: int) -> np.ndarray:
        image = self._cache.get(raw_idx)
        if image is None:
            image = self._decode(raw_idx)
            if list(image.shape) != self.image_shape:
                name = self._image_fnames[raw_idx]
                raise DatasetError(self._odd_shape_message(name, list(image.shape)))
            if self._caching:
                self._cache[raw_idx] = image
        return image

    def _load_raw_labels(self) -> np.ndarray | None:
        labels = read_label_file(self._files).get("labels")
        return None if labels is None else label_array(labels, self._image_fnames, self._path)

    def _no_labels_message(self) -> str:
        return missing_labels_message(self._files)

    def _odd_shape_message(self, name: str, shape: list[int]) -> str:
        return (
            f'picture "{self._files.full_name(name)}" is {shape} (channels, height, width), but '
            f'"{self._image_fnames[0]}" has {self.image_shape}; prepare the set with '
            "dataset_tool.py (--transform, --width, --height, --force-channels)"
        )


def _is_plain_png(data: bytes) -> bool:
    """Whether these are the first bytes of an 8-bit grey, RGB or RGBA PNG file."""
    return (
        len(data) > 25
        and data.startswith(_PNG_SIGNATURE)
        and data[24] == 8
        and data[25] in _PNG_CHANNELS
    )


def _has_special_chunks(data: bytes) -> bool:
    """Whether a PNG file may hold a colour key or a rotation; then Pillow decides."""
    return b"tRNS" in data or b"eXIf" in data
