"""Kernels as libraries of plain C functions that take one params struct each.

The header of an op is the only description of its structs; it is read here, so that Python cannot
disagree with C. Every field is 8 bytes wide, which leaves a compiler no choice of layout.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

DATA_TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
"""Codes of data types, as in `abi.h`."""

_FORMATS = {"const void*": "P", "void*": "P", "int64_t": "q", "double": "d"}
_COMMENT = re.compile(r"//[^\n]*")
_STRUCT = re.compile(r"struct\s+(\w+)\s*\{(.*?)\};", re.DOTALL)
_FIELD = re.compile(r"\s*(const void\*|void\*|int64_t|double)\s+(\w+)\s*")
_FUNCTION = re.compile(
    r"INR_EXPORT\s+const char\*\s+(\w+)\s*\(\s*const\s+(\w+)\s*\*\s*\w+\s*\)\s*;"
)


class Layout:
    """Fields of a params struct in their order.

    Args:
        fields: Names and C types.

    Attributes:
        positions: Place of each field in the struct.
        pack: Values of all fields to the struct's bytes.
    """

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        found = list(fields)
        self.positions = {name: position for position, (name, _) in enumerate(found)}
        self.pack = struct.Struct("@" + "".join(_FORMATS[type_] for _, type_ in found)).pack


def read_headers(paths: Iterable[Path]) -> dict[str, Layout]:
    """The functions that headers declare.

    Args:
        paths: Headers with structs of fields `const void*`, `void*`, `int64_t` and `double`, one
            per statement, and declarations `INR_EXPORT const char* name(const Struct* p);`.

    Returns:
        Function name -> layout of its params struct.

    Raises:
        ValueError: A field of another type, or a function of a struct that no header defines.
    """
    text = _COMMENT.sub("", "\n".join(path.read_text(encoding="ascii") for path in paths))
    layouts = {name: _layout(name, body) for name, body in _STRUCT.findall(text)}
    functions = dict(_FUNCTION.findall(text))
    unknown = sorted(set(functions.values()) - set(layouts))
    if unknown:
        raise ValueError(f"no header defines the struct {', '.join(unknown)}")
    return {name: layouts[struct_name] for name, struct_name in functions.items()}


def _layout(name: str, body: str) -> Layout:
    fields = []
    for statement in filter(str.strip, body.split(";")):
        match = _FIELD.fullmatch(statement)
        if match is None:
            raise ValueError(f"struct {name}: cannot read the field {statement.strip()!r}")
        fields.append((match[2], match[1]))
    return Layout(fields)


class Bound:
    """A function of a library with some fields filled in, to be called with the others.

    Args:
        name: Of the function.
        pointer: The function.
        layout: Of its params struct.
        values: Of all fields so far.
    """

    def __init__(self, name: str, pointer: Any, layout: Layout, values: list[Any]) -> None:
        self._name = name
        self._pointer = pointer
        self._layout = layout
        self._values = values

    def bind(self, **fields: Tensor | torch.dtype | float | None) -> Bound:
        """The same function with more fields filled in; tensors are not kept alive."""
        values, _device = self._filled(fields)
        return Bound(self._name, self._pointer, self._layout, values)

    def __call__(self, **fields: Tensor | torch.dtype | float | None) -> None:
        """Calls the function; see `Library.call`."""
        values, device = self._filled(fields)
        if device is not None and device.type == "cuda":
            error = _call_on_gpu(device, self._name, self._pointer, self._layout, values)
        else:
            error = self._pointer(_packed(self._name, self._layout, values))
        if error:
            raise RuntimeError(f"{self._name}: {error.decode('utf-8', 'replace')}")

    def _filled(self, fields: dict[str, Any]) -> tuple[list[Any], torch.device | None]:
        """The values of all fields, and the device of the first tensor."""
        positions, values, device = self._layout.positions, self._values.copy(), None
        for name, value in fields.items():
            if name not in positions:
                raise TypeError(f"{self._name} has no field {name!r}")
            kind = type(value)
            # Exact types first: `isinstance` of a Tensor is a slow question about anything.
            if kind is int or kind is float:
                values[positions[name]] = value
            elif kind is Tensor or kind is Parameter or isinstance(value, Tensor):
                if device is None:
                    device = value.device
                values[positions[name]] = value.data_ptr()
            elif kind is torch.dtype:
                values[positions[name]] = DATA_TYPES[value]
            elif value is not None:
                values[positions[name]] = value
        return values, device


class Library:
    """The loaded functions of one op.

    Args:
        binary: The library.
        functions: Result of `read_headers`; the library may have some of them only.
    """

    def __init__(self, binary: ctypes.CDLL, functions: dict[str, Layout]) -> None:
        self.binary = binary
        self._functions = {}
        for name, layout in functions.items():
            with contextlib.suppress(AttributeError):
                function = getattr(binary, name)
                # The address of an object of bytes, which is the packed struct.
                function.argtypes = [ctypes.c_char_p]
                function.restype = ctypes.c_char_p
                self._functions[name] = Bound(name, function, layout, [0] * len(layout.positions))

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
            TypeError: If the struct has no such field, or it cannot hold the value.
            RuntimeError: What the function returned as its error.
        """
        self._functions[function](**fields)

    def bind(self, function: str, **fields: Tensor | torch.dtype | float | None) -> Bound:
        """A function with the fields that stay the same from call to call filled in, once."""
        return self._functions[function].bind(**fields)


def _call_on_gpu(
    device: torch.device, name: str, pointer: Any, layout: Layout, values: list[Any]
) -> bytes | None:
    with torch.cuda.device(device):
        if "stream" in layout.positions:
            stream = torch.cuda.current_stream(device).cuda_stream
            values[layout.positions["stream"]] = stream
        return pointer(_packed(name, layout, values))


def _packed(name: str, layout: Layout, values: list[Any]) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise TypeError(f"{name}: {error}") from error
