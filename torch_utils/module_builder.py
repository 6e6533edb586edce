"""Builds our modules from what a file says about them, within the means of the file.

Constructor arguments and tensors come from files that may be hostile: a few bytes can ask for a
network of any size. What is built here is bounded by the bytes that the file really has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import dnnlib
from torch_utils import persistence
from torch_utils.pickle_records import ObjectRecord, PersistentRecord
from torch_utils.safe_pickle import ArrayRecord, TensorRecord

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


def describe(error: Exception) -> str:
    """Name and message of an error of somebody else's, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise dnnlib.UserError("the file is damaged: the state of a module has an unknown form")
    return value


class StoredBytes:
    """Counts the bytes that a file spends on tensors, shared ones once.

    Attributes:
        total: The count.
    """

    def __init__(self) -> None:
        self.total = 0
        self._copied = 0
        self._seen: set[int] = set()

    def add(self, record: TensorRecord | ArrayRecord) -> None:
        """Counts one more tensor, of which a copy will be made.

        Raises:
            dnnlib.UserError: The copies would take far more memory than the file.
        """
        if record.data_id not in self._seen:
            self._seen.add(record.data_id)
            self.total += record.nbytes_stored
        self._copied += record.nbytes_stored
        if self._copied > 4 * self.total + _SPARE_BYTES:
            raise dnnlib.UserError("the file is damaged: too many of its tensors share their bytes")


@dataclass(frozen=True)
class ModuleState:
    """What a file says about a module and all modules in it, by dotted names.

    Attributes:
        tensors: Parameters and buffers.
        training: Training flags, "" = the module itself.
        stored: Bytes that the file spends on the tensors.
    """

    tensors: dict[str, TensorRecord]
    training: dict[str, bool]
    stored: StoredBytes

    @classmethod
    def of(cls, record: PersistentRecord | ObjectRecord) -> ModuleState:
        """Collects it from the record of a module.

        Raises:
            dnnlib.UserError: The record is not one of a module.
        """
        state = cls({}, {}, StoredBytes())
        try:
            state._add(record, "")
        except RecursionError:
            raise dnnlib.UserError("the file is damaged: modules are nested too deeply") from None
        return state

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
                self.stored.add(tensor)
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
            f"the file's {cls.__name__} cannot be built: {describe(error)}"
        ) from error
