"""Runs CUDA kernels on the CPU, one fiber per thread, in the place of an op's C++ kernel."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import shlex
from collections.abc import Iterator

from ops import _dispatch
from ops._native import Library, build_library
from ops._native.registration import OPS_FOLDER

ORDERS = {"ascending": 0, "descending": 1, "random": 2}
"""In which order the threads of a block run between two barriers."""


@functools.cache
def emulated_library(op: str) -> Library:
    """The `.cu` sources of an op, compiled for the CPU."""
    importlib.import_module(f"ops.{op}")  # which announces its kernels
    kernel = _dispatch._kernels[op, "cuda"]
    headers = kernel.load.args[2]
    defines = [
        # Through a shell on its way.
        shlex.quote(f'-DINR_SOURCE_{index}="{OPS_FOLDER / op / source}"')
        for index, source in enumerate(kernel.sources)
    ]
    library = build_library(
        op,
        ("../_native/emulate.cpp",),
        headers,
        name=f"{op}_emulated",
        also_read=kernel.sources,
        extra_cflags=["-O1", "-fno-gnu-unique", "-DINR_EMULATE", f"-I{OPS_FOLDER / op}", *defines],
        extra_ldflags=[],
    )
    library.binary.emulation_set_order.argtypes = [ctypes.c_int64]
    return library


@contextlib.contextmanager
def emulated_op(op: str, order: str = "ascending") -> Iterator[Library]:
    """Inside the block, impl="cpp" of the op runs its CUDA kernels on CPU tensors.

    Args:
        op: Name of the op's folder.
        order: A name of `ORDERS`; what depends on it lacks a barrier.
    """
    library = emulated_library(op)
    before = _dispatch._kernels.get((op, "cpp"))
    _dispatch.register_kernel(op, "cpp", lambda: library)
    library.binary.emulation_set_order(ORDERS[order])
    try:
        yield library
    finally:
        library.binary.emulation_set_order(0)
        if before is None:
            del _dispatch._kernels[op, "cpp"]
        else:
            _dispatch._kernels[op, "cpp"] = before
