"""What a pickle would have built, only written down: the records of `torch_utils.safe_pickle`.

The records have no attributes that a stream could set and their classes are sealed, so a hostile
stream cannot change how later objects behave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import dnnlib


class Refused(dnnlib.UserError):
    """The file asks for something that is not on the allow-list.

    Args:
        what: What it asks for, for example a class name.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the file needs {what}, which is not a known part of a network snapshot and was not "
            "loaded; if you trust the author, --allow-code (in Python: allow_code=True) runs the "
            "file's own code"
        )


def damaged(detail: object) -> dnnlib.UserError:
    """The error for a file that is no snapshot or not whole; `detail` says where it shows."""
    detail = " ".join(str(detail).split())
    return dnnlib.UserError(
        "the file is not a network snapshot, is damaged, or was not downloaded completely "
        f"({detail[:200]})"
    )


class Sealed(type):
    """Metaclass of everything that a stream can name: its attributes cannot be set."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise TypeError(f"{cls.__name__} is sealed")


class Record(metaclass=Sealed):
    """Base of the inert records. A stream cannot set their state."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise TypeError(f"{type(self).__name__} has no state")


class Call(Record):
    """Stands for a global of the allow-list that the stream calls."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: object) -> object:
        return self._function(*args)


class TypeRecord(Record):
    """A type that the stream mentions but does not use.

    Attributes:
        name: Full name of the type.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class EasyDictRecord(dict, metaclass=Sealed):
    """A `dnnlib.EasyDict` of the file, as a plain dict."""

    __slots__ = ()


class ObjectRecord(Record):
    """An instance of a class that is known but not built, such as `torch.nn.ModuleList`.

    Attributes:
        class_name: Full name of the class.
        state: What its `__setstate__` would have got.
    """

    __slots__ = ("state",)
    class_name = ""

    def __new__(cls, *args: object) -> ObjectRecord:
        record = super().__new__(cls)
        record.state = {}
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state


class PersistentRecord(Record):
    """An object that was written by `torch_utils.persistence`, not rebuilt.

    Attributes:
        module_src: Text of the module that defines its class.
        class_name: Name inside that module.
        state: The object's attributes; values may be records.
    """

    __slots__ = ("class_name", "module_src", "state")

    def __init__(self, meta: dict[str, Any]) -> None:
        if not isinstance(meta, dict) or meta.get("type") != "class" or meta.get("version") != 6:
            raise damaged("a persistent object of unknown type or version")
        self.module_src, self.class_name = meta.get("module_src"), meta.get("class_name")
        self.state = meta.get("state")
        if not isinstance(self.module_src, str) or not isinstance(self.class_name, str):
            raise damaged("a persistent object without source or class name")
        if not isinstance(self.state, dict):
            raise damaged(f"{self.class_name[:80]!r} without state")
