"""What a set of real images consists of, in one hash: the same hash means the same images.

A data set is reached by its class name only, so this looks at the folder or archive that its
`path` argument names, and at the images themselves if there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

_LABEL_FILE = "dataset.json"


def dataset_fingerprint(dataset: Any, dataset_kwargs: Mapping[str, Any]) -> str:
    """Return a SHA-256 in hex.

    Of a zip archive it covers names, sizes and CRCs of all files; of a folder names, sizes and
    times of change, and the content of `dataset.json`; of anything else every image and label,
    which means reading the whole set.

    Args:
        dataset: The set; only looked at if `dataset_kwargs` has no `path`.
        dataset_kwargs: What it was made from.
    """
    digest = hashlib.sha256()
    for line in _facts(dataset, dataset_kwargs.get("path")):
        digest.update(line)
        digest.update(b"\0")
    return digest.hexdigest()


def _facts(dataset: Any, path: Any) -> Iterator[bytes]:
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        yield b"folder"
        yield from _folder_facts(os.fspath(path))
    elif isinstance(path, (str, os.PathLike)) and zipfile.is_zipfile(path):
        yield b"zip"
        with zipfile.ZipFile(path) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                yield f"{info.filename} {info.file_size} {info.CRC:08x}".encode()
    else:
        yield b"images"
        for index in range(len(dataset)):
            image, label = dataset[index]
            yield f"{image.dtype.str} {image.shape} {label.dtype.str} {label.shape}".encode()
            yield image.tobytes() + label.tobytes()


def _folder_facts(path: str) -> Iterator[bytes]:
    for root, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(root, path).replace(os.sep, "/")
        for name in sorted(name for name in files if not name.startswith(".")):
            stat = os.stat(os.path.join(root, name))
            # Names that are not valid text keep their bytes.
            yield f"{below}/{name} {stat.st_size} {stat.st_mtime_ns}".encode(
                errors="surrogateescape"
            )
    label_file = os.path.join(path, _LABEL_FILE)
    if os.path.isfile(label_file):
        with open(label_file, "rb") as file:
            yield file.read()


def recorded_resize_filter(path: Any) -> str | None:
    """Return the filter that dataset_tool.py noted in `dataset.json`, None if it did not.

    FIDs of sets that were scaled with different filters do not compare.

    Args:
        path: Folder or archive; anything else has no note.
    """
    try:
        if os.path.isdir(path):
            with open(os.path.join(path, _LABEL_FILE), "rb") as file:
                content = json.load(file)
        else:
            with zipfile.ZipFile(path) as archive:
                content = json.loads(archive.read(_LABEL_FILE))
        found = content["provenance"]["resize_filter"]
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return None
    return found if isinstance(found, str) else None
