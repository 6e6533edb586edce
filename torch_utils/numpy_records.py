"""Numbers and arrays that numpy wrote into a pickle, as inert records (`torch_utils.safe_pickle`).

Only numbers: an array of objects could hold anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from torch_utils.pickle_records import Record, damaged

_MAX_DIMS = 16


class DtypeRecord(Record):
    """`numpy.dtype(code)` of a number."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16", code):
            raise damaged(f"numpy dtype {str(code)[:20]!r}")
        self._code, self._order = code, "="

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise damaged("numpy dtype with an unknown byte order")
        self._order = order

    def build(self) -> np.dtype:
        """The dtype."""
        return np.dtype(self._order + self._code)


class ArrayRecord(Record):
    """An array of the file, not built.

    Attributes:
        nbytes_stored: Bytes that the file spends on it.
        data_id: Identity of those bytes; other arrays may share them.
    """

    __slots__ = ("_data", "_dtype", "_fortran", "_shape")

    def __init__(self, *_: object) -> None:
        self._data, self._dtype, self._fortran, self._shape = b"", None, False, ()

    @classmethod
    def from_buffer(cls, data: object, dtype: object, shape: object, order: object) -> ArrayRecord:
        """The record of what `numpy.frombuffer(data, dtype).reshape(shape, order)` makes."""
        record = cls()
        record.__setstate__((1, shape, dtype, order == "F", data))
        return record

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise damaged("a numpy array in an unknown format")
        _, self._shape, self._dtype, self._fortran, self._data = state

    @property
    def nbytes_stored(self) -> int:
        return len(self._data) if isinstance(self._data, (bytes, bytearray)) else 0

    @property
    def data_id(self) -> int:
        return id(self._data)

    def build(self) -> np.ndarray:
        """Builds the array, in the machine's byte order.

        Raises:
            dnnlib.UserError: Its shape does not fit its bytes.
        """
        shape, data = self._shape, self._data
        if not isinstance(shape, tuple) or len(shape) > _MAX_DIMS:
            raise damaged("a numpy array with an impossible shape")
        if not all(type(number) is int and number >= 0 for number in shape):
            raise damaged(f"a numpy array with impossible numbers {shape}")
        if not isinstance(self._dtype, DtypeRecord) or not isinstance(data, (bytes, bytearray)):
            raise damaged("a numpy array that does not hold numbers")
        dtype = self._dtype.build()
        if math.prod(shape) * dtype.itemsize != len(data):
            raise damaged(f"a numpy array of shape {shape} does not fit its {len(data)} bytes")
        values = np.frombuffer(data, dtype).reshape(shape, order="F" if self._fortran else "C")
        return values.astype(dtype.newbyteorder("="), order="C")


def _scalar(dtype: object, data: object) -> complex:
    """The Python number of a numpy scalar."""
    if not isinstance(dtype, DtypeRecord):
        raise damaged("a numpy number without dtype")
    number = dtype.build()
    if not isinstance(data, bytes) or len(data) != number.itemsize:
        raise damaged("a numpy number of the wrong size")
    return np.frombuffer(data, number, count=1)[0].item()


# numpy 2 moved numpy.core to numpy._core.
CALLS: dict[str, Callable[..., object]] = {"numpy.dtype": DtypeRecord}
for _package in ("numpy.core", "numpy._core"):
    CALLS[f"{_package}.multiarray.scalar"] = _scalar
    CALLS[f"{_package}.multiarray._reconstruct"] = ArrayRecord
    CALLS[f"{_package}.numeric._frombuffer"] = ArrayRecord.from_buffer
