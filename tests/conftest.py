"""Settings of all tests: one thread per worker, fixed seeds, GPU tests skipped without a GPU."""

from __future__ import annotations

import os

# Before torch is imported: several pytest workers with many threads each would fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import random

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

# The same few examples in every run: a red test is red again, and the suite's duration is known.
hypothesis.settings.register_profile(
    "project", deadline=None, max_examples=20, derandomize=True, database=None
)
hypothesis.settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on machines without a CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
