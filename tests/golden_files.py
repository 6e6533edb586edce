"""Reference numbers in tests/golden/, computed with the published implementations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of tests/golden/<name>.npz by name, read at once and writable."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def cases(name: str) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Splits keys `<case>/<array>` of a file: [(case, {array: values})], in the file's order."""
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for key, values in load(name).items():
        case, array = key.split("/", 1)
        grouped.setdefault(case, {})[array] = values
    return list(grouped.items())


def arguments(case: dict[str, np.ndarray]) -> dict:
    """Keyword arguments stored as JSON in a case's `args`."""
    return json.loads(str(case["args"]))
