"""Tiny detectors in place of the public ones, and a cache of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dnnlib
from metrics import detectors as detectors_module
from tests.metrics import tiny_detectors


@pytest.fixture(scope="session")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name -> file of the tiny detectors."""
    return tiny_detectors.make(tmp_path_factory.mktemp("detectors"))


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no detectors from the surroundings."""
    monkeypatch.delenv(detectors_module.DETECTOR_DIR_VARIABLE, raising=False)
    folder = tmp_path / "cache"
    dnnlib.util.set_cache_dir(str(folder))
    yield folder
    dnnlib.util.set_cache_dir(None)
