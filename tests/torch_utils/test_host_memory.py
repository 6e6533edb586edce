"""The allocator keeps what it was given, where it can be told to."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import weakref

import pytest

from torch_utils.host_memory import settled_objects

_PROGRAM = """
import resource, sys
import numpy as np
from torch_utils.host_memory import keep_freed_memory

print(keep_freed_memory())
np.ones(2**20)
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(2**20)  # 8 MiB = 2048 pages, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


def page_faults(**environment: str) -> tuple[str, int]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**env, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    changed, faults = result.stdout.split()
    return changed, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_blocks_are_reused_without_page_faults():
    changed, faults = page_faults()
    assert changed == "True"
    assert faults < 2048  # fewer than one of the fifty arrays has pages


def test_settings_of_the_user_are_left_alone():
    assert page_faults(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


class _Node:
    """Refers to itself, so that only the cyclic collector frees it."""

    def __init__(self) -> None:
        self.self = self


def is_looked_at(wanted: object) -> bool:
    return any(found is wanted for found in gc.get_objects())


def test_the_collector_leaves_older_objects_alone() -> None:
    unused, kept = weakref.ref(_Node()), _Node()
    with settled_objects():
        assert unused() is None  # what was garbage before is not kept for good
        assert not is_looked_at(kept)
        new = weakref.ref(_Node())
        gc.collect()
        assert new() is None
    assert is_looked_at(kept)


def test_the_collector_sees_everything_again_after_an_error() -> None:
    with pytest.raises(KeyError), settled_objects():
        raise KeyError
    assert gc.get_freeze_count() == 0
