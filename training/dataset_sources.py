"""Where `dataset_tool.py` gets pictures from: folder, zip, CIFAR-10, MNIST, LSUN. No torch.

`open_source` finds out what a path is. Every source is read by index, may be read by several
threads at once, and gives 8-bit pixels.
"""

from __future__ import annotations

import gzip
import importlib
import io
import itertools
import os
import pickle
import re
import tarfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from training.dataset_files import DatasetError, PictureFiles, decode_picture
from training.dataset_labels import read_label_file

CIFAR_NAME = "cifar-10-python.tar.gz"
MNIST_NAME = "train-images-idx3-ubyte.gz"
MNIST_LABELS_NAME = "train-labels-idx1-ubyte.gz"


class Source:
    """Pictures by index.

    Attributes:
        kind: "folder", "zip", "cifar10", "mnist" or "lsun"; recorded in the result.
        class_names: Name of every class id, None = not known.
    """

    kind: str
    class_names: list[str] | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What to call picture `index` in messages."""
        raise NotImplementedError

    def picture(self, index: int) -> np.ndarray:
        """Pixels of picture `index`, uint8 [height, width, channels], channels 1, 3 or 4.

        Raises:
            DatasetError: if the picture cannot be read.
        """
        raise NotImplementedError

    def label(self, index: int) -> Any:
        """Label of picture `index`: a class id, a list of numbers, or None = no label."""
        raise NotImplementedError

    def close(self) -> None:
        """Releases files."""


class FilesSource(Source):
    """A folder or a zip archive, in order of name, labelled by `dataset.json` or by folders.

    Args:
        path: The folder or archive.
        labels_from_folders: Take the first folder of each picture's name as its class; class ids
            are the positions in the sorted list of these folders. `dataset.json` is not read.
    """

    def __init__(self, path: str, labels_from_folders: bool = False) -> None:
        self._files = PictureFiles(path)
        self._files.require_pictures()
        self.kind = self._files.kind
        self._names = self._files.picture_names
        if labels_from_folders:
            self._labels = self._folder_labels()
        else:
            content = read_label_file(self._files)
            self._labels = content.get("labels") or {}
            names = content.get("class_names")
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                self.class_names = names

    def _folder_labels(self) -> dict[str, int]:
        for name in self._names:
            if "/" not in name:
                raise DatasetError(
                    f'"{self._files.full_name(name)}" lies in no sub-folder, so '
                    "--labels-from-folders cannot tell its class; move it into one"
                )
        self.class_names = sorted({name.split("/")[0] for name in self._names})
        ids = {class_name: i for i, class_name in enumerate(self.class_names)}
        return {name: ids[name.split("/")[0]] for name in self._names}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._files.full_name(self._names[index])

    def picture(self, index: int) -> np.ndarray:
        return self._files.read_picture(self._names[index])

    def label(self, index: int) -> Any:
        return self._labels.get(self._names[index])

    def close(self) -> None:
        self._files.close()


class ArraySource(Source):
    """Pictures and class ids that lie in memory.

    Args:
        kind: See `Source`.
        path: For messages.
        images: uint8 [N, height, width, channels].
        labels: N class ids.
        class_names: Name of every class id, None = not known.
    """

    def __init__(
        self,
        kind: str,
        path: str,
        images: np.ndarray,
        labels: Sequence[int],
        class_names: list[str] | None = None,
    ) -> None:
        if len(images) != len(labels) or not len(images):
            raise DatasetError(
                f'"{path}" holds {len(images)} pictures and {len(labels)} labels, which do not '
                "match; download it again"
            )
        self.kind = kind
        self.class_names = class_names
        self._path = path
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return f"{self._path}[{index}]"

    def picture(self, index: int) -> np.ndarray:
        return self._images[index]

    def label(self, index: int) -> int:
        return int(self._labels[index])


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain containers and NumPy arrays, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module.endswith("core.multiarray"):
            return np.empty(0).__reduce__()[0]  # where this function lives depends on the version
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return importlib.import_module(module).encode
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def cifar10_source(path: str) -> ArraySource:
    """The training pictures of CIFAR-10 (32x32 RGB, class ids 0..9) from its Python archive.

    The pickles inside are read without running code from them.
    """
    batches, class_names = [], None
    try:
        with tarfile.open(path, "r:gz") as tar:
            members = {os.path.basename(member.name): member for member in tar if member.isfile()}
            for base in sorted(members):
                if re.fullmatch(r"data_batch_\d+|batches\.meta", base):
                    data = io.BytesIO(tar.extractfile(members[base]).read())
                    content = _ArrayUnpickler(data, encoding="latin1").load()
                    if base == "batches.meta":
                        class_names = [str(name) for name in content["label_names"]]
                    else:
                        batches.append(
                            (np.asarray(content["data"], np.uint8), list(content["labels"]))
                        )
        images = np.concatenate([data.reshape(-1, 3, 32, 32) for data, _labels in batches])
    except (tarfile.TarError, pickle.UnpicklingError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f'cannot read "{path}": {error}; download it again') from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f'"{path}" is not the Python version of CIFAR-10 ({error})') from error
    labels = [label for _data, batch_labels in batches for label in batch_labels]
    return ArraySource("cifar10", path, images.transpose(0, 2, 3, 1), labels, class_names)


def _read_idx(path: str, num_dims: int) -> np.ndarray:
    """Array of bytes in MNIST's IDX format: 0x0000 08 <dims>, the sizes big-endian, the data."""
    try:
        with gzip.open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError as error:
        raise DatasetError(f'"{path}" is missing; MNIST needs both of its train files') from error
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f'cannot read "{path}": {error}; download it again') from error
    header = 4 + 4 * num_dims
    sizes = [int.from_bytes(data[i : i + 4], "big") for i in range(4, header, 4)]
    if data[:4] != bytes([0, 0, 8, num_dims]) or len(data) != header + int(np.prod(sizes)):
        raise DatasetError(f'"{path}" is not a complete MNIST file; download it again')
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


def mnist_source(path: str) -> ArraySource:
    """The training pictures of MNIST, grey, padded from 28x28 to 32x32, class ids 0..9."""
    images = _read_idx(path, num_dims=3)
    labels = _read_idx(os.path.join(os.path.dirname(path), MNIST_LABELS_NAME), num_dims=1)
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2)])[..., np.newaxis]
    return ArraySource("mnist", path, padded, labels.tolist())


class LsunSource(Source):
    """An LSUN database folder (`*_lmdb`), in order of key; no labels."""

    kind = "lsun"

    def __init__(self, path: str, max_pictures: int | None = None) -> None:
        try:
            lmdb = importlib.import_module("lmdb")
        except ImportError as error:
            raise DatasetError(
                f'reading the LSUN database "{path}" needs the package lmdb: pip install lmdb'
            ) from error
        self._path = path
        try:
            self._env = lmdb.open(path, readonly=True, lock=False, readahead=False)
            with self._env.begin() as txn:
                keys = txn.cursor().iternext(keys=True, values=False)
                self._keys = list(itertools.islice(keys, max_pictures))
        except lmdb.Error as error:
            raise DatasetError(f'cannot read the LSUN database "{path}": {error}') from error
        if not self._keys:
            raise DatasetError(f'the LSUN database "{path}" is empty')

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        return f"{self._path}[{self._keys[index].decode(errors='replace')}]"

    def picture(self, index: int) -> np.ndarray:
        with self._env.begin() as txn:
            data = txn.get(self._keys[index])
        return decode_picture(data, self.name(index))

    def label(self, index: int) -> None:
        return None

    def close(self) -> None:
        self._env.close()


def open_source(
    path: str, *, labels_from_folders: bool = False, max_pictures: int | None = None
) -> Source:
    """Opens whatever lies at `path`.

    A folder named `*_lmdb` is LSUN, any other folder holds pictures; of files, the official
    archives of CIFAR-10 and MNIST are known by their names, and any .zip holds pictures.

    Args:
        path: The source.
        labels_from_folders: See `FilesSource`; only for folders and zip archives.
        max_pictures: A hint that no more will be read. None = all may be.

    Raises:
        DatasetError: if there is no such source, or it cannot be read.
    """
    path = os.path.normpath(path)
    base = os.path.basename(path)
    is_folder = os.path.isdir(path)
    if not os.path.exists(path):
        raise DatasetError(f'source "{path}" does not exist')
    if (is_folder and not base.endswith("_lmdb")) or base.lower().endswith(".zip"):
        return FilesSource(path, labels_from_folders)
    if labels_from_folders:
        raise DatasetError(f'--labels-from-folders needs a folder or .zip, "{path}" is neither')
    if is_folder:
        return LsunSource(path, max_pictures)
    if base == CIFAR_NAME:
        return cifar10_source(path)
    if base == MNIST_NAME:
        return mnist_source(path)
    raise DatasetError(
        f'source "{path}" is not of a known kind: a folder, a .zip, {CIFAR_NAME}, {MNIST_NAME} '
        "or an LSUN *_lmdb folder"
    )
