"""From the inert records of `torch_utils.safe_pickle` to networks of our own classes.

What a record becomes is decided by importers: functions that look at a `PersistentRecord` and
return the object, or None if the record is not theirs. The importer of our own snapshots is here.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import dnnlib
from torch_utils import omegaconf_records, persistence
from torch_utils.module_builder import ModuleState, StoredBytes, construct, describe
from torch_utils.pickle_records import (
    EasyDictRecord,
    ObjectRecord,
    PersistentRecord,
    Record,
    Refused,
)
from torch_utils.safe_pickle import ArrayRecord, TensorRecord

Convert = Callable[[Any], Any]
Importer = Callable[[PersistentRecord, Convert], object | None]

ObjectImporter = Callable[[ObjectRecord, Convert], object]

_importers: list[Importer] = []
_object_importers: dict[str, ObjectImporter] = {}

# Importers of files that other programs wrote; they are loaded when a file needs one.
_IMPORTER_MODULES = ("networks.foreign", "networks.tensorflow_pickle")


def importer(function: Importer) -> Importer:
    """Decorator: adds a function that knows one kind of file.

    Args:
        function: `function(record, convert)` returns the object that `record` stands for, or None
            if it does not know its kind. `convert` turns any value in `record.state` into the
            object it stands for. It must not run anything that the record contains.
    """
    _importers.append(function)
    return function


def object_importer(class_name: str) -> Callable[[ObjectImporter], ObjectImporter]:
    """Decorator: as `importer`, for plain objects of one class.

    Args:
        class_name: Full name of the class; `safe_pickle` has to allow it.
    """

    def add(function: ObjectImporter) -> ObjectImporter:
        _object_importers[class_name] = function
        return function

    return add


def to_objects(tree: Any) -> Any:
    """Replaces every record in what `safe_pickle.load` returned.

    Raises:
        safe_pickle.Refused: No importer knows a record.
        dnnlib.UserError: A tensor or the state of a network is inconsistent.
    """
    return _Converter().convert(tree)


def unpickle_with_code(data: bytes) -> Any:
    """Unpickles the ordinary way, running whatever the file asks for. CUDA tensors come to the CPU.

    Raises:
        dnnlib.UserError: It did not work; the reason is quoted.
    """
    try:
        return _CodeUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise dnnlib.UserError(f"the file's own code failed: {describe(error)}") from error


class _CodeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage_to_cpu
        return super().find_class(module, name)


def _load_storage_to_cpu(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)


class _Converter:
    """Converts a tree of values and records; an object that occurs twice is converted once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._active: set[int] = set()
        self._bytes = StoredBytes()

    def convert(self, value: Any) -> Any:
        """Returns the object that `value` stands for."""
        key = id(value)
        if key in self._done:
            return self._done[key]
        if key in self._active:
            raise dnnlib.UserError("the file is damaged: a value contains itself")
        self._active.add(key)
        try:
            result = self._convert_new(value)
        except RecursionError:
            raise dnnlib.UserError("the file is damaged: values are nested too deeply") from None
        self._active.discard(key)
        self._done[key] = result
        return result

    def _convert_new(self, value: Any) -> Any:
        if isinstance(value, EasyDictRecord):
            return dnnlib.EasyDict((self.convert(k), self.convert(v)) for k, v in value.items())
        if isinstance(value, dict):
            return {self.convert(k): self.convert(v) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return type(value)(self.convert(item) for item in value)
        if isinstance(value, (TensorRecord, ArrayRecord)):
            self._bytes.add(value)
        if isinstance(value, TensorRecord):
            return value.build().clone().requires_grad_(value.requires_grad)
        if isinstance(value, PersistentRecord):
            return self._import(value)
        if isinstance(value, ObjectRecord):
            return self._import_object(value)
        if isinstance(value, ArrayRecord):
            return value.build()
        if isinstance(value, Record):
            raise Refused(f"a {type(value).__name__} on its own")
        return value

    def _import_object(self, record: ObjectRecord) -> object:
        if record.class_name in omegaconf_records.CONTAINERS:
            return omegaconf_records.to_plain(record)
        if record.class_name not in _object_importers:
            _load_importers()
        if record.class_name in _object_importers:
            return _object_importers[record.class_name](record, self.convert)
        raise Refused(f"an object of class {record.class_name!r}")

    def _import(self, record: PersistentRecord) -> object:
        for function in _all_importers():
            result = function(record, self.convert)
            if result is not None:
                return result
        raise Refused(f"the class {record.class_name[:80]!r} with source code of its own")


def _load_importers() -> None:
    for name in _IMPORTER_MODULES:
        importlib.import_module(name)


def _all_importers() -> Iterator[Importer]:
    """The importers known so far, then those of other programs' files."""
    known = len(_importers)
    yield from _importers[:known]
    _load_importers()
    yield from _importers[known:]


@importer
def _import_own(record: PersistentRecord, convert: Convert) -> object | None:
    """Our own snapshots: the embedded bundle is not run, our own classes take its place."""
    if not record.module_src.startswith(persistence.BUNDLE_HEADER):
        return None
    cls = persistence.own_class(record.class_name)
    args = convert(record.state.get("_init_args"))
    kwargs = convert(record.state.get("_init_kwargs"))
    state = ModuleState.of(record)
    obj = construct(cls, args, kwargs, state.stored.total)
    if isinstance(obj, nn.Module):
        state.fill(obj)
    return obj
