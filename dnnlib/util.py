"""Small helpers under the names that scripts and snapshots of StyleGAN2-ADA expect.

What is longer lives in `dnnlib.cache`, `download`, `files`, `logger` and `names` and is
re-exported here. `EasyDict` stays in this file: snapshots name it as `dnnlib.util.EasyDict`.
"""

from __future__ import annotations

import ctypes
import io
import math
import pickle
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dnnlib.cache import make_cache_dir_path, set_cache_dir
from dnnlib.download import is_url, open_url
from dnnlib.files import (
    atomic_path,
    copy_files_and_create_dirs,
    list_dir_recursively_with_ignore,
)
from dnnlib.logger import Logger
from dnnlib.names import (
    call_func_by_name,
    construct_class_by_name,
    get_module_dir_by_obj_name,
    get_module_from_obj_name,
    get_obj_by_name,
    get_obj_from_module,
    get_top_level_function_name,
    is_top_level_function,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "EasyDict",
    "Logger",
    "ask_yes_no",
    "atomic_path",
    "call_func_by_name",
    "construct_class_by_name",
    "copy_files_and_create_dirs",
    "format_time",
    "format_time_brief",
    "get_dtype_and_ctype",
    "get_module_dir_by_obj_name",
    "get_module_from_obj_name",
    "get_obj_by_name",
    "get_obj_from_module",
    "get_top_level_function_name",
    "is_pickleable",
    "is_top_level_function",
    "is_url",
    "list_dir_recursively_with_ignore",
    "make_cache_dir_path",
    "open_url",
    "set_cache_dir",
    "strtobool",
    "tuple_product",
]

_CTYPES = {
    "uint8": ctypes.c_uint8,
    "uint16": ctypes.c_uint16,
    "uint32": ctypes.c_uint32,
    "uint64": ctypes.c_uint64,
    "int8": ctypes.c_int8,
    "int16": ctypes.c_int16,
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}


class EasyDict(dict):
    """A dict whose items are also attributes: `d.key` is `d["key"]`.

    Reading or deleting a missing attribute raises AttributeError, a missing item KeyError.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no item {name!r} among {sorted(map(str, self))}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"no item {name!r} among {sorted(map(str, self))}") from None


def format_time(seconds: float) -> str:
    """Format a duration, rounded to seconds: `5s`, `1m 05s`, `1h 01m 40s`, `1d 01h 00m`."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 60 * 60:
        return f"{s // 60}m {s % 60:02}s"
    if s < 24 * 60 * 60:
        return f"{s // 3600}h {s // 60 % 60:02}m {s % 60:02}s"
    return f"{s // 86400}d {s // 3600 % 24:02}h {s // 60 % 60:02}m"


def format_time_brief(seconds: float) -> str:
    """Format a duration with at most two units: `5s`, `1m 05s`, `1h 01m`, `1d 01h`."""
    s = round(seconds)
    if s < 60 * 60:
        return format_time(s)
    if s < 24 * 60 * 60:
        return f"{s // 3600}h {s // 60 % 60:02}m"
    return f"{s // 86400}d {s // 3600 % 24:02}h"


def strtobool(text: str) -> int:
    """Return 1 for y, yes, t, true, on, 1 and 0 for n, no, f, false, off, 0, in any case.

    Raises:
        ValueError: For anything else. (Python 3.12 dropped `distutils`, which had this.)
    """
    word = text.strip().lower()
    if word in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if word in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"{text!r} is neither yes nor no")


def ask_yes_no(question: str) -> int:
    """Ask on the terminal until the answer is a yes (1) or a no (0)."""
    while True:
        try:
            return strtobool(input(f"{question} [y/n]\n"))
        except ValueError:
            print("Please answer y or n.")


def tuple_product(t: Iterable[float]) -> Any:
    """Multiply the elements; 1 for none."""
    return math.prod(t)


def get_dtype_and_ctype(type_obj: Any) -> tuple[np.dtype, Any]:
    """Return the numpy dtype and the ctypes type of a number type.

    Args:
        type_obj: A numpy dtype or scalar type, or its name, also with a prefix (`"np.float32"`).

    Raises:
        ValueError: Not one of int/uint 8, 16, 32, 64 and float32, float64.
    """
    import numpy as np

    if isinstance(type_obj, str):
        name = type_obj.rsplit(".", 1)[-1]
    elif hasattr(type_obj, "__name__"):
        name = type_obj.__name__
    else:
        name = getattr(type_obj, "name", repr(type_obj))
    if name not in _CTYPES:
        raise ValueError(f"no ctype for {type_obj!r}; use one of {', '.join(_CTYPES)}")
    return np.dtype(name), _CTYPES[name]


def is_pickleable(obj: Any) -> bool:
    """Tell whether `pickle` can write the object, by trying."""
    try:
        pickle.dump(obj, io.BytesIO())
    except Exception:  # noqa: BLE001 - __reduce__ of a foreign class may raise anything
        return False
    return True
