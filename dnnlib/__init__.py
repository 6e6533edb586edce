"""Helpers that need neither torch nor a GPU: paths, downloads, logs, names, the command line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dnnlib import util
from dnnlib.errors import UserError
from dnnlib.util import EasyDict, make_cache_dir_path

if TYPE_CHECKING:
    from dnnlib import cli, progress

__all__ = ["EasyDict", "UserError", "cli", "make_cache_dir_path", "progress", "util"]


def __getattr__(name: str) -> Any:
    """Import `dnnlib.cli` and `dnnlib.progress` on first use: most callers need neither."""
    if name in ("cli", "progress"):
        return importlib.import_module(f"dnnlib.{name}")
    raise AttributeError(f"module 'dnnlib' has no attribute {name!r}")
