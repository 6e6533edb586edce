"""Measurements in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from torch_utils import host_memory

_Result = TypeVar("_Result")


def in_own_process(function: Callable[..., _Result], *args: Any) -> _Result:
    """Calls a function in a new process with the memory settings of the commands.

    The process ends with this one, however that ends.

    Args:
        function: Function of a module, which the process imports.
        args: Its arguments; they are pickled.

    Returns:
        What it returns; what it raises is raised here.

    Raises:
        concurrent.futures.process.BrokenProcessPool: The process was killed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_begin) as process:
        try:
            return process.submit(function, *args).result()
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _begin() -> None:
    host_memory.keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Measuring on for nobody would disturb what is measured next."""
    multiprocessing.parent_process().join()
    os._exit(1)
