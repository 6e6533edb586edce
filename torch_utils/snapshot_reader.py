"""From the inert records of `torch_utils.safe_pickle` to networks of our own classes.

What a record becomes is decided by importers: functions that look at a `PersistentRecord` and
return the object, or None if the record is not theirs. The importer of our own snapshots is here.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import dnnlib
from torch_utils import persistence
from torch_utils.safe_pickle import (
    EasyDictRecord,
    ObjectRecord,
    PersistentRecord,
    Refused,
    TensorRecord,
)

Convert = Callable[[Any], Any]
Importer = Callable[[PersistentRecord, Convert], object | None]

_importers: list[Importer] = []

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


def importer(function: Importer) -> Importer:
    """Decorator: adds a function that knows one kind of file.

    Args:
        function: `function(record, convert)` returns the object that `record` stands for, or None
            if it does not know its kind. `convert` turns any value in `record.state` into the
            object it stands for. It must not run anything that the record contains.
    """
    _importers.append(function)
    return function


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
            raise Refused(f"an object of class {value.class_name!r}")
        return value

    def _import(self, record: PersistentRecord) -> object:
        for function in _importers:
            result = function(record, self.convert)
            if result is not None:
                return result
        raise Refused(f"the class {record.class_name[:80]!r} with source code of its own")


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise dnnlib.UserError("the file is damaged: the state of a module has an unknown form")
    return value


def _module_state(
    record: PersistentRecord | ObjectRecord, prefix: str = ""
) -> tuple[dict[str, TensorRecord], dict[str, bool]]:
    """Lists the tensors and the training flags of a module record by dotted names."""
    state = _dict(record.state)
    tensors = {}
    training = {prefix.rstrip("."): bool(state.get("training", True))}
    for group in ("_parameters", "_buffers"):
        for name, tensor in _dict(state.get(group, {})).items():
            if tensor is None:
                continue
            if not isinstance(tensor, TensorRecord):
                raise dnnlib.UserError(f"the file is damaged: {prefix}{name} is not a tensor")
            tensors[prefix + name] = tensor
    for name, child in _dict(state.get("_modules", {})).items():
        if child is None:
            continue
        if not isinstance(child, (PersistentRecord, ObjectRecord)):
            raise dnnlib.UserError(f"the file is damaged: {prefix}{name} is not a module")
        child_tensors, child_training = _module_state(child, f"{prefix}{name}.")
        tensors.update(child_tensors)
        training.update(child_training)
    return tensors, training


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
            self._left_bytes -= planned.numel() * planned.element_size()
            if self._left_bytes < 0:
                raise dnnlib.UserError(
                    "the file is damaged: its network would be far larger than its tensors"
                )
        return func(*args, **kwargs)


@importer
def _import_own(record: PersistentRecord, convert: Convert) -> object | None:
    """Our own snapshots: the embedded bundle is not run, our own classes take its place."""
    if not record.module_src.startswith(persistence.BUNDLE_HEADER):
        return None
    cls = persistence.own_class(record.class_name)
    args = convert(record.state.get("_init_args"))
    kwargs = convert(record.state.get("_init_kwargs"))
    try:
        tensors, training = _module_state(record)
    except RecursionError:
        raise dnnlib.UserError("the file is damaged: modules are nested too deeply") from None
    limit_bytes = 4 * sum(tensor.nbytes_stored for tensor in tensors.values()) + _SPARE_BYTES
    try:
        # The random initial weights are replaced at once; the caller's random numbers stay as
        # they would have been.
        with torch.random.fork_rng(devices=[]), _AllocationLimit(limit_bytes):
            obj = cls(*args, **kwargs)
    except dnnlib.UserError:
        raise
    except Exception as error:
        raise dnnlib.UserError(
            f"the file's {record.class_name} cannot be built: {_describe(error)}"
        ) from error
    if isinstance(obj, nn.Module):
        persistence.fill_module(
            obj,
            {name: tensor.build() for name, tensor in tensors.items()},
            {name: tensor.requires_grad for name, tensor in tensors.items()},
            training,
        )
    return obj
