"""Kernels as libraries of plain C functions that take one params struct each.

The header of an op is the only description of its structs; it is read here, so that Python cannot
disagree with C. Every field is 8 bytes wide, which leaves a compiler no choice of layout.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DATA_TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
"""Codes of data types, as in `abi.h`."""

_FIELD_TYPES = {
    "const void*": ctypes.c_void_p,
    "void*": ctypes.c_void_p,
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
}
_COMMENT = re.compile(r"//[^\n]*")
_STRUCT = re.compile(r"struct\s+(\w+)\s*\{(.*?)\};", re.DOTALL)
_FIELD = re.compile(r"\s*(const void\*|void\*|int64_t|double)\s+(\w+)\s*")
_FUNCTION = re.compile(
    r"INR_EXPORT\s+const char\*\s+(\w+)\s*\(\s*const\s+(\w+)\s*\*\s*\w+\s*\)\s*;"
)


def read_headers(paths: Iterable[Path]) -> dict[str, type[ctypes.Structure]]:
    """The functions that headers declare.

    Args:
        paths: Headers with structs of fields `const void*`, `void*`, `int64_t` and `double`, one
            per statement, and declarations `INR_EXPORT const char* name(const Struct* p);`.

    Returns:
        Function name -> its params struct.

    Raises:
        ValueError: A field of another type, or a function of a struct that no header defines.
    """
    text = _COMMENT.sub("", "\n".join(path.read_text(encoding="ascii") for path in paths))
    structs = {name: _structure(name, body) for name, body in _STRUCT.findall(text)}
    functions = dict(_FUNCTION.findall(text))
    unknown = sorted(set(functions.values()) - set(structs))
    if unknown:
        raise ValueError(f"no header defines the struct {', '.join(unknown)}")
    return {name: structs[struct] for name, struct in functions.items()}


def _structure(name: str, body: str) -> type[ctypes.Structure]:
    fields = []
    for statement in filter(str.strip, body.split(";")):
        match = _FIELD.fullmatch(statement)
        if match is None:
            raise ValueError(f"struct {name}: cannot read the field {statement.strip()!r}")
        fields.append((match[2], _FIELD_TYPES[match[1]]))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


class Library:
    """The loaded functions of one op.

    Args:
        binary: The library.
        functions: Result of `read_headers`; the library may have some of them only.
    """

    def __init__(self, binary: ctypes.CDLL, functions: dict[str, type[ctypes.Structure]]) -> None:
        self.binary = binary
        self._functions = {}
        for name, struct in functions.items():
            with contextlib.suppress(AttributeError):
                function = getattr(binary, name)
                function.argtypes = [ctypes.POINTER(struct)]
                function.restype = ctypes.c_char_p
                names = frozenset(field for field, _ in struct._fields_)
                self._functions[name] = (function, struct, names)

    def has(self, function: str) -> bool:
        """Whether this library defines the function."""
        return function in self._functions

    def call(self, function: str, **fields: Tensor | torch.dtype | float | None) -> None:
        """Calls a function; on a GPU it is queued on the tensors' current stream.

        Args:
            function: Its name.
            fields: The struct's fields: tensors (their address), dtypes (their code), numbers, None
                (a null pointer). What is not named is 0 or null, but `stream`, which is filled.

        Raises:
            TypeError: If the struct has no such field.
            RuntimeError: What the function returned as its error.
        """
        pointer, struct, names = self._functions[function]
        params = struct()
        device = None
        for name, value in fields.items():
            if name not in names:
                raise TypeError(f"{function} has no field {name!r}")
            if isinstance(value, Tensor):
                device = value.device
                value = value.data_ptr()
            elif isinstance(value, torch.dtype):
                value = DATA_TYPES[value]
            setattr(params, name, value)
        error = _call_on(device, pointer, params, "stream" in names)
        if error:
            raise RuntimeError(f"{function}: {error.decode('utf-8', 'replace')}")


def _call_on(
    device: torch.device | None, function: Any, params: ctypes.Structure, has_stream: bool
) -> bytes | None:
    if device is None or device.type != "cuda":
        return function(ctypes.byref(params))
    with torch.cuda.device(device):
        if has_stream:
            params.stream = torch.cuda.current_stream(device).cuda_stream
        return function(ctypes.byref(params))
