"""Objects whose pickles carry the source text of their class.

A pickle holds, for every persistent object, a call of `_reconstruct_persistent_obj` with a plain
dict `meta`: type 'class', version 6, module_src, class_name, state. Any program that has a function
of that name under `torch_utils.persistence` can rebuild the object, without our repository.

Two kinds of classes are persistent:

* our own networks (`register`): all of them carry the same text, one self-contained bundle, which
  is recognised by its first line. Read here, they become instances of our own classes.
* users' classes (`persistent_class`): they carry the text of the module that defines them.

`read` opens such a file without running any of it. A plain `pickle.load` runs embedded text, except
that of our own bundle.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import pickle
import sys
import types
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import nn

import dnnlib

BUNDLE_HEADER = "# inr-gan portable networks, format 1"
"""The first line of every text that our own classes embed begins with this."""

_VERSION = 6
_PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Tensor)

# Importing the package and touching the name registers every class of the package.
_PROVIDERS = (("networks", "Generator"), ("training", "AugmentPipe"))

_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class _Entry:
    """What a persistent class writes into a pickle.

    Attributes:
        class_name: Name in the text.
        source: Returns the text.
        positional: Names under which positional constructor arguments are recorded in
            `init_kwargs`; empty = they stay in `init_args`.
    """

    class_name: str
    source: Callable[[], str]
    positional: tuple[str, ...] = ()


_entries: dict[type, _Entry] = {}
_own_classes: dict[str, type] = {}
_modules_by_text: dict[str, types.ModuleType] = {}
_texts_by_module: dict[str, str] = {}
_import_hooks: list[Callable[[dnnlib.EasyDict], dnnlib.EasyDict]] = []


def register(classes: Iterable[type], source: Callable[[], str], module: str) -> None:
    """Makes classes of this project persistent, in place.

    Instances made from now on remember deep copies of their constructor arguments and are pickled
    with the text that `source` returns. All arguments are found by name in `init_kwargs`: scripts
    rebuild networks from that alone.

    Args:
        classes: The classes. Registering one again does nothing.
        source: Returns the bundle, always the same `str` object, so that a pickle holds it once.
            Called when an object is pickled, not before. Its text begins with `BUNDLE_HEADER`.
        module: Name of the module that defines the classes.

    Raises:
        ValueError: A class is defined elsewhere, or another class of this name is registered.
    """
    for cls in classes:
        if cls.__module__ != module:
            raise ValueError(f"{cls.__name__} is defined in {cls.__module__}, not in {module}")
        if _own_classes.setdefault(cls.__name__, cls) is not cls:
            raise ValueError(f"two persistent classes are called {cls.__name__}")
        _make_persistent(cls, _Entry(cls.__name__, source, _positional_names(cls)))


def persistent_class(cls: _Class) -> _Class:
    """Class decorator: makes a class persistent with the source text of its module.

    Args:
        cls: A class whose module has a source text.

    Returns:
        The same class.

    Raises:
        ValueError: The source text of its module is not to be had.
    """
    if cls not in _entries:
        text = _module_text(cls)
        _make_persistent(cls, _Entry(cls.__name__, lambda: text))
    return cls


def is_persistent(obj: object) -> bool:
    """Whether `obj` is a persistent class or an instance of one."""
    return (obj if isinstance(obj, type) else type(obj)) in _entries


class Mismatch(dnnlib.UserError):
    """The arguments or tensors of a file are not those of our network of that name."""


def import_hook(hook: Callable[[dnnlib.EasyDict], dnnlib.EasyDict]) -> None:
    """Adds a function that may change `meta` of every object before its text runs.

    Args:
        hook: Gets meta (type, version, module_src, class_name, state) and returns it, changed or
            not. Called once per persistent object by plain unpickling; `read` does not call it.
    """
    if not callable(hook):
        raise TypeError(f"an import hook must be callable, got {hook!r}")
    _import_hooks.append(hook)


def own_class(name: str) -> type:
    """The class of this project that is pickled under `name`.

    Raises:
        dnnlib.UserError: There is none.
    """
    if name not in _own_classes:
        for package, attribute in _PROVIDERS:
            getattr(importlib.import_module(package), attribute)
    if name not in _own_classes:
        raise dnnlib.UserError(
            f"the file holds a network class {name[:80]!r} that this version does not have; "
            f"it has {', '.join(sorted(_own_classes))}"
        )
    return _own_classes[name]


def read(file: BinaryIO | bytes, allow_code: bool = False) -> Any:
    """Reads a pickle through an allow-list; nothing that the file contains is run.

    Args:
        file: Opened in binary mode, or the content.
        allow_code: If the file contains something that is not on the allow-list, unpickle it the
            ordinary way, which runs the file's own code.

    Returns:
        The pickled object. Networks are instances of our own classes, built from their constructor
        arguments and filled with the file's tensors, on the CPU.

    Raises:
        dnnlib.UserError: Not a pickle, damaged, truncated, or something in it is not on the
            allow-list (`torch_utils.safe_pickle.Refused`).
    """
    # Imported here because the reader builds on the registry above.
    from torch_utils import safe_pickle, snapshot_reader

    data = file if isinstance(file, bytes) else file.read()
    try:
        return snapshot_reader.to_objects(safe_pickle.load(data))
    except safe_pickle.Refused:
        if not allow_code:
            raise
    return snapshot_reader.unpickle_with_code(data)


def fill_module(
    module: nn.Module,
    tensors: dict[str, torch.Tensor],
    requires_grad: dict[str, bool],
    training: dict[str, bool],
) -> None:
    """Copies state by dotted names, strictly.

    Args:
        module: Freshly built.
        tensors: Parameters and buffers. Buffers that `module` does not keep in its state_dict are
            ignored: its constructor has computed them. Data types are taken from here.
        requires_grad: By name, for parameters.
        training: By module name, "" = the module itself.

    Raises:
        Mismatch: A name is missing on either side or a shape differs.
    """
    kept = set(module.state_dict())
    targets = dict(module.named_parameters(remove_duplicate=False))
    targets.update(module.named_buffers(remove_duplicate=False))
    given = {name for name in tensors if name in kept or name not in targets}
    if given != kept:
        name = min(given ^ kept)
        where = "the file lacks" if name in kept else "the file has an unexpected"
        raise Mismatch(
            f"{where} tensor {name!r} of {type(module).__name__}; "
            "the file does not match this version of the network"
        )
    for name in kept:
        if tensors[name].shape != targets[name].shape:
            raise Mismatch(
                f"tensor {name!r} of {type(module).__name__} has shape "
                f"{list(tensors[name].shape)} in the file and {list(targets[name].shape)} here"
            )
        targets[name].data = tensors[name].detach().clone()
        if name in requires_grad:
            targets[name].requires_grad_(requires_grad[name])
    for name, child in module.named_modules():
        child.training = bool(training.get(name, child.training))


def _make_persistent(cls: type, entry: _Entry) -> None:
    if cls in _entries:
        return
    _entries[cls] = entry
    construct = cls.__init__

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is not cls:
            construct(self, *args, **kwargs)
            return
        # Copied before the call, which may change them; stored after, because Module.__init__
        # would not allow it earlier.
        named = dict(zip(entry.positional, args))
        recorded = _plain_copy(args[len(named) :]), _plain_copy({**named, **kwargs})
        construct(self, *args, **kwargs)
        self.__dict__["_init_args"], self.__dict__["_init_kwargs"] = recorded

    def __reduce_ex__(self: Any, protocol: int) -> Any:
        if type(self) is not cls:
            return super(cls, self).__reduce_ex__(protocol)
        _require_record(self)
        state = object.__reduce_ex__(self, 2)[2]
        meta = {
            "type": "class",
            "version": _VERSION,
            "module_src": entry.source(),
            "class_name": entry.class_name,
            "state": dict(state),
        }
        return _reconstruct_persistent_obj, (meta,), None

    cls.__init__ = __init__
    cls.__reduce_ex__ = __reduce_ex__
    cls.init_args = property(_get_init_args)
    cls.init_kwargs = property(_get_init_kwargs)
    if "__deepcopy__" not in vars(cls):
        cls.__deepcopy__ = _deepcopy


def _positional_names(cls: type) -> tuple[str, ...]:
    """Names of the constructor's arguments that may be given by position; none if it has *args."""
    parameters = list(inspect.signature(cls).parameters.values())
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return ()
    return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def _get_init_args(self: Any) -> tuple[Any, ...]:
    """The positional arguments that the constructor got (a copy)."""
    _require_record(self)
    return copy.deepcopy(self._init_args)


def _get_init_kwargs(self: Any) -> dnnlib.EasyDict:
    """The keyword arguments that the constructor got (a copy)."""
    _require_record(self)
    return dnnlib.EasyDict(copy.deepcopy(self._init_kwargs))


def _require_record(self: Any) -> None:
    if "_init_args" not in self.__dict__:
        raise TypeError(
            f"this {type(self).__name__} was built before its class became persistent; import "
            f"network classes through their package ('from networks import ...')"
        )


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """Copies attribute by attribute; the pickle route would rebuild every child."""
    new = type(self).__new__(type(self))
    memo[id(self)] = new
    new.__dict__.update({key: copy.deepcopy(value, memo) for key, value in vars(self).items()})
    return new


def _plain_copy(value: Any) -> Any:
    """Deep copy for storage: EasyDict becomes dict, numpy numbers become Python numbers.

    Raises:
        TypeError: Something in it cannot be pickled.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain_copy(key): _plain_copy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain_copy(item) for item in value)
    if not isinstance(value, _PLAIN_TYPES):
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"constructor argument of type {type(value).__name__} cannot be pickled: {error}"
            ) from error
    return copy.deepcopy(value)


def _module_text(cls: type) -> str:
    """Source text of the module that defines `cls`, always the same object per module."""
    name = cls.__module__
    if name not in _texts_by_module:
        module = sys.modules[name]
        try:
            text = inspect.getsource(module)
        except (OSError, TypeError) as error:
            raise ValueError(
                f"{cls.__name__} cannot be persistent: the source of its module {name} was not "
                f"found ({error})"
            ) from error
        _texts_by_module[name] = text
        _modules_by_text[text] = module
    return _texts_by_module[name]


def _text_to_module(text: str) -> types.ModuleType:
    """The module with this source text: a known one, or a new one made by running the text."""
    if text not in _modules_by_text:
        name = f"_imported_module_{uuid.uuid4().hex}"
        module = types.ModuleType(name)
        sys.modules[name] = module
        _texts_by_module[name] = text
        _modules_by_text[text] = module
        try:
            exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del sys.modules[name], _texts_by_module[name], _modules_by_text[text]
            raise
    return _modules_by_text[text]


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    """What a pickle calls to rebuild a persistent object. The name is part of the file format."""
    meta = dnnlib.EasyDict(meta)
    meta.state = dnnlib.EasyDict(meta.state)
    for hook in _import_hooks:
        meta = hook(meta)
        if meta is None:
            raise ValueError(f"import hook {hook!r} returned None instead of meta")
    if meta.type != "class" or meta.version != _VERSION:
        raise ValueError(f"unknown persistent object: type {meta.type!r}, version {meta.version!r}")
    if meta.module_src.startswith(BUNDLE_HEADER):
        cls = own_class(meta.class_name)
        if meta.module_src != _entries[cls].source():
            return _rebuild_from_arguments(cls, meta.state)
    else:
        cls = persistent_class(getattr(_text_to_module(meta.module_src), meta.class_name))
    obj = cls.__new__(cls)
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(dict(meta.state))
    else:
        obj.__dict__.update(meta.state)
    return obj


def _rebuild_from_arguments(cls: type, state: dict[str, Any]) -> Any:
    """Builds an object that another version of our bundle wrote; its children are already built."""
    obj = cls(*state["_init_args"], **state["_init_kwargs"])
    if isinstance(obj, nn.Module):
        old = nn.Module()
        old.__dict__.update(state)
        parameters = dict(old.named_parameters(remove_duplicate=False))
        fill_module(
            obj,
            {**parameters, **dict(old.named_buffers(remove_duplicate=False))},
            {name: parameter.requires_grad for name, parameter in parameters.items()},
            {name: module.training for name, module in old.named_modules()},
        )
    return obj
