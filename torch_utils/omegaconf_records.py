"""Configurations of the package omegaconf in a pickle, read without it as plain dicts and lists.

The published INR-GAN code keeps such objects in its networks and therefore in its snapshots.
"""

from __future__ import annotations

import re
from typing import Any

import dnnlib
from torch_utils.pickle_records import ObjectRecord, Refused

CONTAINERS = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig")
"""Classes whose records `to_plain` converts."""

_NAMES = re.compile(
    r"omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|nodes\.[A-Za-z]+Node"
    r"|base\.(ContainerMetadata|Metadata))"
)
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_MISSING = "???"
_MAX_DEPTH = 100


def is_known(name: str) -> bool:
    """Whether a class, by its full name, is one of omegaconf's."""
    return _NAMES.fullmatch(name) is not None


def to_plain(record: ObjectRecord) -> Any:
    """Converts a `DictConfig` or `ListConfig` to plain values.

    References such as `${a.b}` are looked up from the root of the configuration, as omegaconf
    does; with leading dots, from the container that holds the reference.

    Args:
        record: From `safe_pickle.load`.

    Returns:
        Dict, list, or None; inside also strings, numbers and booleans.

    Raises:
        dnnlib.UserError: A reference leads nowhere or to itself.
        safe_pickle.Refused: A reference calls a function (`${name:argument}`).
    """
    try:
        return _Resolver().value(record)
    except RecursionError:
        raise _broken("is nested too deeply") from None


def _broken(what: str) -> dnnlib.UserError:
    return dnnlib.UserError(f"the file is damaged: its configuration {what}")


def _state(record: object) -> dict[str, Any]:
    if not isinstance(record, ObjectRecord) or not is_known(record.class_name):
        raise _broken(f"holds a {type(record).__name__}")
    if not isinstance(record.state, dict):
        raise _broken("has an unknown form")
    return record.state


def _content(node: object) -> Any:
    """What a container holds, or the value of any other node; a string if it is a reference."""
    state = _state(node)
    return state.get("_content", state.get("_val"))


class _Resolver:
    """Converts each node once; what is being converted must not be asked for again."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._active: set[int] = set()

    def value(self, node: object) -> Any:
        """The plain value of a node or of what stands in its place."""
        if node is None or isinstance(node, (bool, int, float, str, bytes)):
            return node
        state = _state(node)
        key = id(node)
        if key in self._active:
            raise _broken("refers to itself")
        if key not in self._done:
            self._active.add(key)
            self._done[key] = self._convert(node, state)
            self._active.discard(key)
        return self._done[key]

    def _convert(self, node: object, state: dict[str, Any]) -> Any:
        content = _content(node)
        if isinstance(content, str) and "${" in content:
            return self._interpolate(content, state.get("_parent"))
        if isinstance(content, dict):
            # "???" marks values that the author of the configuration left open.
            values = {key: self.value(item) for key, item in content.items()}
            return {key: item for key, item in values.items() if item != _MISSING}
        if isinstance(content, list):
            return [self.value(item) for item in content]
        return self.value(content)

    def _interpolate(self, text: str, parent: object) -> Any:
        whole = _REFERENCE.fullmatch(text)
        if whole:
            return self.value(self._look_up(whole[1], parent))
        result = _REFERENCE.sub(
            lambda found: str(self.value(self._look_up(found[1], parent))), text
        )
        if "${" in result:
            raise _broken(f"has an unreadable reference {text[:80]!r}")
        return result

    def _look_up(self, path: str, parent: object) -> object:
        """The node that a reference in the container `parent` means."""
        if ":" in path:
            raise Refused(f"the omegaconf function in {path[:80]!r}")
        path = path.strip()
        name = path.lstrip(".")
        up = len(path) - len(name) - 1
        node = self._ancestor(parent, up if up >= 0 else None)
        for part in re.split(r"[.\[]", name):
            node = self._child(node, part.rstrip("]"), path)
        return node

    def _ancestor(self, node: object, steps: int | None) -> object:
        """The container so many steps up; None = the root."""
        for _ in range(_MAX_DEPTH if steps is None else steps):
            parent = _state(node).get("_parent")
            if parent is None:
                return node
            node = parent
        if steps is None:
            raise _broken("contains itself")
        return node

    def _child(self, node: object, name: str, path: str) -> object:
        for _ in range(_MAX_DEPTH):
            content = _content(node)
            whole = _REFERENCE.fullmatch(content) if isinstance(content, str) else None
            if whole is None:
                break
            node = self._look_up(whole[1], _state(node).get("_parent"))
        if isinstance(content, dict):
            found = [item for key, item in content.items() if str(key) == name]
            if found:
                return found[0]
        elif isinstance(content, list) and name.isdigit() and int(name) < len(content):
            return content[int(name)]
        raise _broken(f"refers to {path[:80]!r}, which is not in it")
