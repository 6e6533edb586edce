"""What memory costs on the host, beside what is done with it.

Every step of a training allocates the same large temporaries again. By default glibc maps each of
them afresh, and the first touch of every page costs more than the arithmetic on it. Every step also
makes so many small objects that Python's collector looks through all that a program consists of.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
# The largest threshold that 64-bit glibc accepts; larger blocks are still mapped.
_MMAP_THRESHOLD = 32 * 2**20
_TOP_PAD = 64 * 2**20
_TRIM_THRESHOLD = 2**30


def keep_freed_memory() -> bool:
    """Lets this process reuse freed blocks of up to 32 MiB (up to 1 GiB of them).

    Does nothing where the C library is not glibc, or where the user has chosen settings through
    the environment (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_, GLIBC_TUNABLES).

    Returns:
        Whether the settings were changed.
    """
    chosen = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in chosen):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, _MMAP_THRESHOLD),
        (_M_TRIM_THRESHOLD, _TRIM_THRESHOLD),
        (_M_TOP_PAD, _TOP_PAD),
    )
    return all([libc.mallopt(name, value) == 1 for name, value in settings])


@contextlib.contextmanager
def settled_objects() -> Iterator[None]:
    """Within the block Python's cyclic collector leaves alone what existed before it.

    Modules, networks and data sets stay; looking through them again and again takes several percent
    of a small network's training step.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
