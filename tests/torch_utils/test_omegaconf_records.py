"""Configurations of omegaconf in pickles, made here by classes of the same names and state."""

from __future__ import annotations

import pickle
import sys
import types
from collections import defaultdict
from typing import Any

import pytest

import dnnlib
from torch_utils import persistence
from torch_utils.pickle_records import Refused


class Node:
    """Stands in for all of omegaconf's classes: pickled by name, with its attributes as state."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


NAMES = {
    "omegaconf.dictconfig": ["DictConfig"],
    "omegaconf.listconfig": ["ListConfig"],
    "omegaconf.nodes": ["AnyNode", "IntegerNode"],
    "omegaconf.base": ["ContainerMetadata", "Metadata"],
}


@pytest.fixture(autouse=True)
def omegaconf(monkeypatch) -> dict[str, type]:
    """The package as far as pickle needs it to write; reading must not import anything of it."""
    classes = {}
    for module_name, names in NAMES.items():
        module = types.ModuleType(module_name)
        for name in names:
            classes[name] = type(name, (Node,), {"__module__": module_name})
            setattr(module, name, classes[name])
        monkeypatch.setitem(sys.modules, module_name, module)
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    return classes


@pytest.fixture
def config(omegaconf, monkeypatch):
    """Makes a configuration, pickles it, removes the package, and reads it."""

    def node(value: Any, parent: Any) -> Any:
        kind = {dict: "DictConfig", list: "ListConfig"}.get(type(value), "AnyNode")
        metadata = {"ref_type": Any, "resolver_cache": defaultdict(dict), "key": None}
        made = omegaconf[kind](_metadata=omegaconf["Metadata"](**metadata), _parent=parent)
        if isinstance(value, dict):
            made._content = {key: node(item, made) for key, item in value.items()}
        elif isinstance(value, list):
            made._content = [node(item, made) for item in value]
        else:
            made._val = value
        return made

    def read(value: Any, path: tuple[str, ...] = ()) -> Any:
        root = node(value, None)
        for name in path:
            root = root._content[name]
        content = pickle.dumps(root)
        for name in [*NAMES, "omegaconf"]:
            monkeypatch.setitem(sys.modules, name, None)
        return persistence.read(content)

    return read


def test_values_come_back_plain(config):
    value = {"a": 1, "b": {"c": [1.5, None, True, "x"], "d": {}}, "1": b"y"}
    result = config(value)
    assert result == value
    assert type(result) is dict and type(result["b"]["c"]) is list


def test_references_are_looked_up_from_the_root(config):
    value = {
        "size": 4,
        "low": {"n": 2, "size": "${size}"},
        "list": [7, "${low.n}"],
        "all": {"8": "${low}", "first": "${list.0}", "index": "${list[1]}"},
        "text": "n=${low.n}, size ${ low.size }",
        "far": "${all.8.size}",
        "open": "???",
    }
    low = {"n": 2, "size": 4}
    assert config(value) == {
        "size": 4,
        "low": low,
        "list": [7, 2],
        "all": {"8": low, "first": 7, "index": 2},
        "text": "n=2, size 4",
        "far": 4,
    }


def test_the_root_is_that_of_the_whole_configuration(config):
    value = {"generator": {"n": "${common.n}", "m": "${.k}", "o": "${..common.n}", "k": 5}}
    result = config({**value, "common": {"n": 3}}, path=("generator",))
    assert result == {"n": 3, "m": 5, "o": 3, "k": 5}


@pytest.mark.parametrize(
    "value, message",
    [
        ({"a": "${b.c}", "b": {}}, r"refers to 'b\.c', which is not in it"),
        ({"a": "${b}", "b": "${a}"}, "refers to itself"),
        ({"a": {"b": "${a}"}}, "refers to itself"),
        ({"a": "${a.b}"}, "refers to itself|nested too deeply"),
        ({"a": "${b.c}", "b": 1}, "which is not in it"),
        ({"a": "x${"}, "unreadable reference"),
    ],
)
def test_broken_references_are_one_sentence(config, value, message):
    with pytest.raises(dnnlib.UserError, match=message):
        config(value)


@pytest.mark.parametrize("text", ["${env:HOME}", "${oc.env:HOME}", "x ${now:%Y}"])
def test_functions_are_not_called(config, text):
    with pytest.raises(Refused, match="omegaconf function"):
        config({"a": text})


def test_a_stream_that_is_not_a_configuration(omegaconf):
    for state in ({"_content": {"a": omegaconf["AnyNode"]()}, "_parent": 3}, {"_content": 1 + 2j}):
        config = omegaconf["DictConfig"](**state)
        if "_parent" in state:
            config._content["a"]._val = "${b}"
            config._content["a"]._parent = 3
        with pytest.raises(dnnlib.UserError, match="its configuration"):
            persistence.read(pickle.dumps(config))


def test_a_node_on_its_own_is_refused(omegaconf):
    with pytest.raises(Refused, match=r"omegaconf\.nodes\.AnyNode"):
        persistence.read(pickle.dumps(omegaconf["AnyNode"](_val=1)))


def test_configurations_that_contain_themselves(omegaconf):
    config = omegaconf["DictConfig"](_content={}, _parent=None)
    config._content["a"] = config
    with pytest.raises(dnnlib.UserError, match="refers to itself"):
        persistence.read(pickle.dumps(config))
    first, second = (omegaconf["DictConfig"](_content={}) for _ in range(2))
    first._parent, second._parent = second, first
    first._content["a"] = omegaconf["AnyNode"](_val="${b}", _parent=first)
    with pytest.raises(dnnlib.UserError, match="contains itself"):
        persistence.read(pickle.dumps(first))
