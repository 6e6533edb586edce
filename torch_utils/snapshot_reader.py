"""From the inert records of `torch_utils.safe_pickle` to networks of our own classes.

What a record becomes is decided by importers: functions that look at a `PersistentRecord` and
return the object, or None if the record is not theirs. The importer of our own snapshots is here.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import dnnlib
from torch_utils import omegaconf_records, persistence
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

_FACTORIES = frozenset(
    (
        torch.arange,
        torch.empty,
        torch.eye,
        torch.full,
        torch.linspace,
        torch.logspace,
        torch.normal,
        torch.ones,
        torch.rand,
        torch.randint,
        torch.randn,
        torch.randperm,
        torch.zeros,
    )
)
_SPARE_BYTES = 64 << 20
_LAYER_BYTES = 32 << 10
_MAX_VALUES = 100_000
# No size in a network reaches this.
_MAX_INTEGER = 1 << 22

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
        raise dnnlib.UserError(f"the file's own code failed: {_describe(error)}") from error


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


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


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise dnnlib.UserError("the file is damaged: the state of a module has an unknown form")
    return value


@dataclass(frozen=True)
class ModuleState:
    """What a file says about a module and all modules in it, by dotted names.

    Attributes:
        tensors: Parameters and buffers.
        training: Training flags, "" = the module itself.
    """

    tensors: dict[str, TensorRecord]
    training: dict[str, bool]

    @classmethod
    def of(cls, record: PersistentRecord | ObjectRecord) -> ModuleState:
        """Collects it from the record of a module.

        Raises:
            dnnlib.UserError: The record is not one of a module.
        """
        state = cls({}, {})
        try:
            state._add(record, "")
        except RecursionError:
            raise dnnlib.UserError("the file is damaged: modules are nested too deeply") from None
        return state

    @property
    def nbytes_stored(self) -> int:
        """Bytes that the file spends on the tensors."""
        return sum(tensor.nbytes_stored for tensor in self.tensors.values())

    def fill(self, module: nn.Module, optional: tuple[str, ...] = ()) -> None:
        """Copies the tensors and flags into a module of the same structure.

        Args:
            module: Freshly built.
            optional: Last parts of the names of tensors that the file may lack, or have although
                `module` does not.

        Raises:
            persistence.Mismatch: The structure is another.
            dnnlib.UserError: A tensor is damaged.
        """
        here = module.state_dict()
        tensors = {
            name: tensor.build()
            for name, tensor in self.tensors.items()
            if name in here or name.rpartition(".")[2] not in optional
        }
        for name, tensor in here.items():
            if name.rpartition(".")[2] in optional:
                tensors.setdefault(name, tensor)
        requires_grad = {name: tensor.requires_grad for name, tensor in self.tensors.items()}
        persistence.fill_module(module, tensors, requires_grad, self.training)

    def _add(self, record: PersistentRecord | ObjectRecord, prefix: str) -> None:
        state = _dict(record.state)
        self.training[prefix.rstrip(".")] = bool(state.get("training", True))
        for group in ("_parameters", "_buffers"):
            for name, tensor in _dict(state.get(group, {})).items():
                if tensor is None:
                    continue
                if not isinstance(tensor, TensorRecord):
                    raise dnnlib.UserError(f"the file is damaged: {prefix}{name} is not a tensor")
                self.tensors[prefix + name] = tensor
        for name, child in _dict(state.get("_modules", {})).items():
            if child is None:
                continue
            if not isinstance(child, (PersistentRecord, ObjectRecord)):
                raise dnnlib.UserError(f"the file is damaged: {prefix}{name} is not a module")
            self._add(child, f"{prefix}{name}.")


class _AllocationLimit(TorchFunctionMode):
    """Refuses to create tensors that are out of proportion to the file.

    The constructor arguments come from the file, so a few bytes could ask for a network of any
    size.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._left_bytes = limit_bytes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            options = {k: v for k, v in kwargs.items() if k not in ("generator", "pin_memory")}
            planned = func(*args, **{**options, "device": "meta"})
            # A tensor costs its layer's Python objects even if it is empty.
            self._left_bytes -= planned.numel() * planned.element_size() + _LAYER_BYTES
            if self._left_bytes < 0:
                raise dnnlib.UserError(
                    "the file is damaged: its network would be far larger than its tensors"
                )
        return func(*args, **kwargs)


def check_plain(value: Any, max_integer: int | None = None) -> None:
    """Refuses values that would cost far more than the bytes that the file spends on them.

    Lists in lists may share their contents, so that copying them would never end.

    Args:
        value: Constructor arguments or the like, from a file.
        max_integer: Largest integer that is accepted; None = any.

    Raises:
        dnnlib.UserError: More than 100000 values, shared ones counted every time, or an integer
            that is too large.
    """
    left = _MAX_VALUES
    waiting = [value]
    while waiting:
        item = waiting.pop()
        left -= 1
        if left < 0:
            raise dnnlib.UserError(f"the file is damaged: more than {_MAX_VALUES} arguments")
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
        elif max_integer is not None and isinstance(item, int) and abs(item) > max_integer:
            raise dnnlib.UserError("the file is damaged: an argument is an enormous number")


def construct(cls: type, args: Any, kwargs: Any, nbytes_stored: int) -> Any:
    """Calls the constructor of one of our own classes with arguments from a file.

    The random initial weights are meant to be replaced; the caller's random numbers stay as they
    would have been.

    Args:
        cls: The class.
        args: Positional arguments.
        kwargs: Keyword arguments.
        nbytes_stored: Bytes that the file spends on tensors; much larger objects are refused.

    Raises:
        persistence.Mismatch: The arguments do not fit the class.
        dnnlib.UserError: They ask for too much.
    """
    if not isinstance(args, (tuple, list)):
        raise dnnlib.UserError("the file is damaged: a network without constructor arguments")
    check_plain([args, _dict(kwargs)], _MAX_INTEGER)
    try:
        limit = _AllocationLimit(4 * nbytes_stored + _SPARE_BYTES)
        with torch.random.fork_rng(devices=[]), limit:
            return cls(*args, **kwargs)
    except dnnlib.UserError:
        raise
    except Exception as error:
        raise persistence.Mismatch(
            f"the file's {cls.__name__} cannot be built: {_describe(error)}"
        ) from error


@importer
def _import_own(record: PersistentRecord, convert: Convert) -> object | None:
    """Our own snapshots: the embedded bundle is not run, our own classes take its place."""
    if not record.module_src.startswith(persistence.BUNDLE_HEADER):
        return None
    cls = persistence.own_class(record.class_name)
    args = convert(record.state.get("_init_args"))
    kwargs = convert(record.state.get("_init_kwargs"))
    state = ModuleState.of(record)
    obj = construct(cls, args, kwargs, state.nbytes_stored)
    if isinstance(obj, nn.Module):
        state.fill(obj)
    return obj
