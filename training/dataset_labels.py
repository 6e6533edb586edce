"""`dataset.json`: the labels of a folder or zip of pictures. Imports no torch.

The file lies at the root and holds `{"labels": [[name, label], ...]}`, or null for `labels`.
A label is a class id (integer >= 0) or a vector of numbers.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from training.dataset_files import DatasetError, PictureFiles

LABEL_FILE = "dataset.json"


def read_label_file(files: PictureFiles) -> dict[str, Any]:
    """Content of the set's `dataset.json`, with "labels" as a dict from name to label, or None.

    Returns an empty dict if the set has no such file.

    Raises:
        DatasetError: if the file is there but not of the form above.
    """
    if LABEL_FILE not in files.names:
        return {}
    where = f'{LABEL_FILE} of "{files.path}"'
    try:
        content = json.loads(files.read(LABEL_FILE))
    except ValueError as error:
        raise DatasetError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f'{where} must be an object like {{"labels": [["a.png", 0], ...]}}')
    labels = content.get("labels")
    try:
        content["labels"] = None if labels is None else {name: label for name, label in labels}
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f'{where}: "labels" must be null or a list of pairs [name, label]: {error}'
        ) from error
    return content


def missing_labels_message(files: PictureFiles) -> str:
    """One sentence for a set that has no labels where labels are needed."""
    message = f'"{files.path}" has no labels: no "labels" in a {LABEL_FILE} at its root'
    deeper = [name for name in files.names if name.endswith("/" + LABEL_FILE)]
    if deeper:
        return f'{message} (there is one at "{deeper[0]}", where it is not looked for)'
    return f"{message}; dataset_tool.py --labels-from-folders makes them from sub-folder names"


def label_array(labels: dict[str, Any], names: list[str], path: str) -> np.ndarray:
    """Labels of the named pictures as one array.

    Args:
        labels: From picture name to label.
        names: The N pictures, in the order of the result.
        path: The set, for error messages.

    Returns:
        int64 [N] of class ids, or float32 [N, D] of vectors.

    Raises:
        DatasetError: if a label is missing, not a number, negative as a class id, or not of the
            same kind as the others.
    """
    missing = [name for name in names if name not in labels]
    if missing:
        raise DatasetError(
            f'{LABEL_FILE} of "{path}" has no label for {len(missing)} of {len(names)} pictures, '
            f'the first is "{missing[0]}"; label every picture or none'
        )
    try:
        array = np.array([labels[name] for name in names])
    except (ValueError, OverflowError):  # rows of different length
        array = np.array(None)
    text = next((name for name in names if isinstance(labels[name], str)), None)
    if text is not None:
        raise DatasetError(
            f'label "{labels[text]}" of "{text}" in {LABEL_FILE} of "{path}" is text; number the '
            "classes from 0 (dataset_tool.py --labels-from-folders does, with one folder a class)"
        )
    if array.ndim not in (1, 2) or array.dtype.kind not in "iuf":
        raise DatasetError(
            f'labels of "{path}" must be all class ids (integers), or all vectors of one length'
        )
    if not np.isfinite(array).all():
        raise DatasetError(f'labels of "{path}" must be finite numbers')
    if array.ndim == 2:
        return array.astype(np.float32)
    bad = np.flatnonzero((array < 0) | (array >= 2**31) | (array != np.floor(array)))
    if bad.size:
        raise DatasetError(
            f'class id {array[bad[0]]} of "{names[bad[0]]}" in "{path}" is no integer from 0 to '
            "2147483647 (a continuous label is a vector, also with one entry: [0.5])"
        )
    return array.astype(np.int64)
