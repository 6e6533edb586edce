"""Reads a pickle without running anything that it asks for.

`load` turns the stream into plain Python values and inert records: what the file would have built
by calling functions is only written down (`TensorRecord`, `PersistentRecord`, ...). Names that are
not on the allow-list end the reading. Nothing is allocated that the file's own bytes do not pay
for: sizes are checked when a tensor is built, after the whole stream has been read.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch

from torch_utils import numpy_records, omegaconf_records
from torch_utils.numpy_records import ArrayRecord
from torch_utils.pickle_records import (
    Call,
    EasyDictRecord,
    ObjectRecord,
    PersistentRecord,
    Record,
    Refused,
    Sealed,
    TypeRecord,
    damaged,
)
from torch_utils.pickle_scan import scan

__all__ = [
    "ArrayRecord",
    "EasyDictRecord",
    "ObjectRecord",
    "PersistentRecord",
    "Refused",
    "StorageRecord",
    "TensorRecord",
    "load",
]

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_DTYPE_NAMES = {str(dtype).removeprefix("torch.") for dtype in _STORAGE_DTYPES.values()}
_STORAGE_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_PROTOCOL = 1001
_MAX_DIMS = 16

# Errors that a damaged or hostile stream provokes in the unpickler itself.
_STREAM_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class StorageRecord(Record):
    """The bytes of a tensor storage in the format of `torch.storage._load_from_bytes`."""

    __slots__ = ("_data", "_values")

    def __init__(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise damaged("a tensor storage that is not bytes")
        self._data = data
        self._values = None

    def build(self) -> torch.Tensor:
        """Returns the storage as a one-dimensional CPU tensor, decoded once."""
        if self._values is None:
            self._values = _decode_storage(self._data)
        return self._values


class TensorRecord(Record):
    """A tensor or parameter of the file, not built.

    Attributes:
        nbytes_stored: Bytes that the file spends on its storage.
        data_id: Identity of those bytes; other tensors may share them.
        requires_grad: As written.
    """

    __slots__ = ("_offset", "_size", "_storage", "_stride", "requires_grad")

    def __init__(
        self,
        storage: StorageRecord,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool = False,
        *_hooks_and_metadata: object,
    ) -> None:
        self._storage, self._offset = storage, offset
        self._size, self._stride = size, stride
        self.requires_grad = bool(requires_grad)

    @classmethod
    def parameter(cls, data: TensorRecord, requires_grad: bool, *_: object) -> TensorRecord:
        """The record of `torch.nn.Parameter(data, requires_grad)`."""
        if not isinstance(data, TensorRecord):
            raise damaged("a parameter that is not a tensor")
        return cls(data._storage, data._offset, data._size, data._stride, requires_grad)

    @property
    def nbytes_stored(self) -> int:
        return len(self._storage._data) if isinstance(self._storage, StorageRecord) else 0

    @property
    def data_id(self) -> int:
        return id(self._storage._data) if isinstance(self._storage, StorageRecord) else 0

    def build(self) -> torch.Tensor:
        """Builds the tensor on the CPU, as a view of its storage.

        Raises:
            dnnlib.UserError: It claims more elements than its storage holds, reaches outside it,
                or repeats elements (stride 0).
        """
        size, stride, offset = self._size, self._stride, self._offset
        for numbers in (size, stride, (offset,)):
            if not isinstance(numbers, tuple) or len(numbers) > _MAX_DIMS:
                raise damaged("a tensor with an impossible shape")
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise damaged(f"a tensor with impossible numbers {numbers}")
        if len(size) != len(stride) or not isinstance(self._storage, StorageRecord):
            raise damaged("a tensor with an impossible shape")
        values = self._storage.build()
        if self.requires_grad and not (values.is_floating_point() or values.is_complex()):
            raise damaged(f"a tensor of {values.dtype} with a gradient")
        numel, last = 1, offset
        for length, step in zip(size, stride):
            numel *= length
            last += max(length - 1, 0) * step
            if length > 1 and step == 0:
                raise damaged(f"a tensor of shape {size} that repeats its elements")
        if numel and (numel > values.numel() or last >= values.numel()):
            raise damaged(
                f"a tensor of shape {size} does not fit its {values.numel()} stored elements"
            )
        return values.as_strided(size, stride, offset) if numel else values.new_empty(size)


def _fraction(value: object, denominator: object = None) -> Fraction:
    if type(value) is int and type(denominator) is int and denominator:
        return Fraction(value, denominator)
    # Fraction("1e999999999") would compute the power.
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,99}(/\d{1,99})?", value):
        raise damaged(f"fraction {str(value)[:20]!r}")
    return Fraction(value)


def _default_dict(_factory: object = None, *_: object) -> dict[Any, Any]:
    return {}


def _encode(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes in this way where the pickle protocol has none.
    if not isinstance(text, str) or encoding != "latin1":
        raise damaged("bytes in an unknown encoding")
    return text.encode("latin1")


_CALLS: dict[str, Callable[..., object]] = {
    "builtins.complex": complex,
    "builtins.dict": dict,
    "builtins.frozenset": frozenset,
    "builtins.set": set,
    "_codecs.encode": _encode,
    "collections.OrderedDict": dict,
    "collections.defaultdict": _default_dict,
    "fractions.Fraction": _fraction,
    "torch.Size": tuple,
    "torch.device": torch.device,
    "torch.storage._load_from_bytes": StorageRecord,
    "torch._utils._rebuild_parameter": TensorRecord.parameter,
    "torch._utils._rebuild_tensor_v2": TensorRecord,
    "torch_utils.persistence._reconstruct_persistent_obj": PersistentRecord,
    **numpy_records.CALLS,
}

# Names that stand for a type and are never called.
_TYPES = {"numpy.ndarray", "typing.Any"}
_TYPES |= {f"builtins.{name}" for name in ("bool", "bytes", "float", "int", "list", "str")}

_OBJECTS = {"dnnlib.tflib.network.Network"}


class _Unpickler(pickle.Unpickler):
    """Resolves global names to inert stand-ins, and no others."""

    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}"
        if full_name in _CALLS:
            return Call(_CALLS[full_name])
        if full_name in ("dnnlib.EasyDict", "dnnlib.util.EasyDict"):
            return EasyDictRecord
        if module == "torch" and name in _DTYPE_NAMES:
            return getattr(torch, name)
        if full_name in _TYPES:
            return TypeRecord(full_name)
        if (
            module.startswith("torch.nn.modules.")
            or full_name in _OBJECTS
            or omegaconf_records.is_known(full_name)
        ):
            body = {"__slots__": (), "class_name": full_name}
            return Sealed("ObjectRecord", (ObjectRecord,), body)
        raise Refused(f"{full_name[:160]!r}")


class _StorageUnpickler(pickle.Unpickler):
    """Reads the pickled headers in front of a storage's raw bytes."""

    def find_class(self, module: str, name: str) -> object:
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise Refused(f"{f'{module}.{name}'[:160]!r} inside a tensor")

    def persistent_load(self, pid: object) -> object:
        return pid


def _decode_storage(data: bytes) -> torch.Tensor:
    """Decodes torch's stream format for one storage: five small pickles, a count, raw bytes."""
    position, headers = 0, []
    try:
        for _ in range(5):
            end = scan(data, position)
            headers.append(_StorageUnpickler(io.BytesIO(data[position:end])).load())
            position = end
        magic, protocol, system, (kind, dtype, key, _, numel, view), keys = headers
        little_endian = system["little_endian"]
    except _STREAM_ERRORS as error:
        raise damaged(f"in a tensor: {error}") from None
    if (magic, protocol, little_endian) != (_STORAGE_MAGIC, _STORAGE_PROTOCOL, True):
        raise damaged("a tensor in an unknown format")
    if kind != "storage" or keys != [key] or view is not None or type(numel) is not int:
        raise damaged("a tensor in an unknown format")
    if not isinstance(dtype, torch.dtype):
        raise damaged("a tensor without dtype")
    count = int.from_bytes(data[position : position + 8], "little")
    raw = memoryview(data)[position + 8 :]
    if count != numel or len(raw) != numel * dtype.itemsize:
        raise damaged(f"a tensor claims {numel} elements but holds {len(raw)} bytes")
    # A bytearray, because torch warns about tensors on read-only memory.
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def load(data: bytes) -> Any:
    """Reads one pickle into plain values and records. Runs nothing.

    Args:
        data: The whole file.

    Returns:
        Dicts, lists, tuples, sets, strings, bytes, numbers, `torch.dtype`, `torch.device` and the
        records of this module. Numpy numbers are returned as Python numbers.

    Raises:
        Refused: The stream names a class or function that is not on the allow-list.
        dnnlib.UserError: The stream is damaged, truncated, or no pickle at all.
    """
    if data[:2] == b"PK":
        raise damaged("it is a zip archive")
    if data[:256].lstrip()[:1] == b"<":
        raise damaged("it looks like a web page")
    try:
        scan(data, 0)
        return _Unpickler(io.BytesIO(data)).load()
    except _STREAM_ERRORS as error:
        raise damaged(error) from None
