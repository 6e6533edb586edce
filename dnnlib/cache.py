"""Where downloaded files and other reusable results are kept."""

from __future__ import annotations

import os
import tempfile

_cache_dir: str | None = None


def set_cache_dir(path: str | None) -> None:
    """Set the root of the cache for this process; None returns to the default."""
    global _cache_dir
    _cache_dir = path


def make_cache_dir_path(*paths: str) -> str:
    """Join `paths` to the root of the cache. Nothing is created.

    The root is the first of: the folder given to `set_cache_dir`, `$DNNLIB_CACHE_DIR`,
    `$HOME/.cache/dnnlib`, `%USERPROFILE%/.cache/dnnlib`, `.cache/dnnlib` in the temporary folder.
    """
    if _cache_dir is not None:
        return os.path.join(_cache_dir, *paths)
    if "DNNLIB_CACHE_DIR" in os.environ:
        return os.path.join(os.environ["DNNLIB_CACHE_DIR"], *paths)
    for variable in ("HOME", "USERPROFILE"):
        if variable in os.environ:
            return os.path.join(os.environ[variable], ".cache", "dnnlib", *paths)
    return os.path.join(tempfile.gettempdir(), ".cache", "dnnlib", *paths)
