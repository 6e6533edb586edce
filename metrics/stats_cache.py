"""Statistics of real images on disk: computed once, reused as long as nothing they depend on
changes.

The files are .npz archives of plain arrays; reading one runs nothing. Each holds its key, so that
a file under a wrong name is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

import dnnlib
from metrics.feature_stats import FeatureStats
from torch_utils.array_file import read_arrays, write_arrays

# To be raised when the meaning of the numbers changes.
_FORMAT = 1
_MAX_NAME = 100


def cache_key(
    *,
    dataset_kwargs: Mapping[str, Any],
    fingerprint: str,
    detector_sha256: str,
    detector_kwargs: Mapping[str, Any],
    num_items: int,
    stats_kwargs: Mapping[str, Any],
    resize_filter: str | None,
) -> str:
    """Return everything that statistics of real images depend on, as one JSON text.

    Args:
        dataset_kwargs: The set; its `path` does not count, what lies there does (`fingerprint`).
        fingerprint: See `metrics.fingerprint`.
        detector_sha256: Of the detector's file.
        detector_kwargs: Which of its outputs is used.
        num_items: How many images are looked at.
        stats_kwargs: What is kept of them.
        resize_filter: How the images were scaled, as far as that was noted.
    """
    kwargs = {name: v for name, v in dataset_kwargs.items() if name != "path" and v is not None}
    return json.dumps(
        {
            "format": _FORMAT,
            "dataset_kwargs": kwargs,
            "fingerprint": fingerprint,
            "detector_sha256": detector_sha256,
            "detector_kwargs": dict(detector_kwargs),
            "num_items": num_items,
            "stats_kwargs": dict(stats_kwargs),
            "resize_filter": resize_filter,
        },
        sort_keys=True,
        default=repr,
    )


def cache_path(key: str, dataset_name: str, detector_name: str) -> str:
    """Return the file of a key: `<cache>/gan-metrics/<dataset>-<detector>-<hash>.npz`."""
    readable = re.sub(r"[^0-9a-zA-Z-._]", "_", f"{dataset_name}-{detector_name}")[:_MAX_NAME]
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return dnnlib.make_cache_dir_path("gan-metrics", f"{readable}-{digest}.npz")


def load_arrays(path: str, key: str) -> dict[str, np.ndarray] | None:
    """Return the arrays of a file, checked, or None if they have to be computed.

    A damaged file is worth one line, not an error: what it held can be computed again.
    """
    if not os.path.isfile(path):
        return None
    try:
        arrays = read_arrays(path)
        if str(arrays.pop("key", "")) != key:
            raise ValueError("it belongs to other images or another detector")
        FeatureStats.from_arrays(arrays)
    except (FileNotFoundError, ValueError) as error:
        print(f"Statistics of the real images are computed again: {path!r} is damaged ({error})")
        return None
    return arrays


def store(path: str, key: str, stats: FeatureStats) -> None:
    """Write statistics under a key; a disk that is full or read-only costs only a line."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_arrays(path, {**stats.to_arrays(), "key": np.array(key)})
    except OSError as error:
        print(f"Statistics of the real images are not kept: {error}")
