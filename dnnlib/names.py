"""Python objects by their dotted names: look up, call, construct."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import types
from typing import Any

_ABBREVIATIONS = {"np": "numpy", "tf": "tensorflow"}


def get_module_from_obj_name(obj_name: str) -> tuple[types.ModuleType, str]:
    """Split a dotted name into the module that holds the object and the name inside it.

    The longest prefix that can be imported and holds the rest wins. `np.` and `tf.` at the start
    stand for `numpy.` and `tensorflow.`.

    Args:
        obj_name: For example `"training.networks.Generator"`.

    Returns:
        The module and the remaining dotted name, `""` if `obj_name` names the module itself.

    Raises:
        ImportError: No prefix can be imported, or a module that exists failed to import; then it
            is that module's own error.
        AttributeError: The module can be imported but holds no such object.
    """
    first, dot, rest = obj_name.partition(".")
    parts = (_ABBREVIATIONS.get(first, first) + dot + rest).split(".") if dot else [obj_name]
    splits = [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(len(parts), 0, -1)]

    for module_name, local_name in splits:
        try:
            module = importlib.import_module(module_name)
            get_obj_from_module(module, local_name)
        except (ImportError, AttributeError):
            continue
        return module, local_name

    # Nothing fits. Repeat without the net, to report the failure that lies deepest: a module that
    # is there but broken, else a missing attribute.
    for module_name, _local_name in splits:
        try:
            importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
    for module_name, local_name in splits:
        if module_name in sys.modules:
            get_obj_from_module(sys.modules[module_name], local_name)
    raise ImportError(f"cannot find a module for the name {obj_name!r}", name=obj_name)


def get_obj_from_module(module: types.ModuleType, obj_name: str) -> Any:
    """Follow the dotted `obj_name` inside `module`; `""` is the module itself."""
    obj: Any = module
    for part in obj_name.split(".") if obj_name else []:
        obj = getattr(obj, part)
    return obj


def get_obj_by_name(name: str) -> Any:
    """Find the object with a fully qualified name. Errors as `get_module_from_obj_name`."""
    module, local_name = get_module_from_obj_name(name)
    return get_obj_from_module(module, local_name)


def call_func_by_name(*args: Any, func_name: str | None = None, **kwargs: Any) -> Any:
    """Find the callable `func_name` and call it with the other arguments."""
    assert func_name is not None, "func_name must be given"
    func = get_obj_by_name(func_name)
    if not callable(func):
        raise TypeError(f"{func_name!r} is a {type(func).__name__}, not something to call")
    return func(*args, **kwargs)


def construct_class_by_name(*args: Any, class_name: str | None = None, **kwargs: Any) -> Any:
    """Find the class `class_name` and construct it with the other arguments."""
    assert class_name is not None, "class_name must be given"
    return call_func_by_name(*args, func_name=class_name, **kwargs)


def get_module_dir_by_obj_name(obj_name: str) -> str:
    """Return the folder of the file that defines the module of a fully qualified name."""
    module, _local_name = get_module_from_obj_name(obj_name)
    return os.path.dirname(inspect.getfile(module))


def is_top_level_function(obj: Any) -> bool:
    """Tell whether `obj` is a callable defined at the top level of its module."""
    if not callable(obj) or not hasattr(obj, "__name__"):
        return False
    module = sys.modules.get(getattr(obj, "__module__", ""))
    return module is not None and obj.__name__ in vars(module)


def get_top_level_function_name(obj: Any) -> str:
    """Return the fully qualified name of a top-level function; `__main__` becomes the file stem."""
    if not is_top_level_function(obj):
        raise ValueError(f"{obj!r} is not defined at the top level of a module")
    module = obj.__module__
    if module == "__main__":
        path = sys.modules[module].__file__
        assert path is not None, "an interactive session has no file name"
        module = os.path.splitext(os.path.basename(path))[0]
    return f"{module}.{obj.__name__}"
