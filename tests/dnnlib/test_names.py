"""dnnlib.names: objects by dotted name."""

from __future__ import annotations

import fractions
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import dnnlib
from dnnlib import util


def test_longest_importable_prefix_is_the_module() -> None:
    module, rest = util.get_module_from_obj_name("dnnlib.util.EasyDict.keys")
    assert module is dnnlib.util and rest == "EasyDict.keys"
    assert util.get_module_from_obj_name("json") == (json, "")
    assert util.get_obj_by_name("dnnlib.util.EasyDict") is dnnlib.EasyDict


def test_np_is_numpy() -> None:
    assert util.get_obj_by_name("np.random.RandomState") is np.random.RandomState


def test_call_and_construct() -> None:
    assert util.call_func_by_name([1, 2], func_name="json.dumps", indent=None) == "[1, 2]"
    made = util.construct_class_by_name(1, denominator=3, class_name="fractions.Fraction")
    assert made == fractions.Fraction(1, 3)
    with pytest.raises(AssertionError):
        util.call_func_by_name(1)
    with pytest.raises(AssertionError):
        util.construct_class_by_name(1)
    with pytest.raises(TypeError, match=r"sys.path"):
        util.call_func_by_name(func_name="sys.path")


def test_nothing_of_that_name() -> None:
    with pytest.raises(ImportError, match="no_such_module_abc"):
        util.get_obj_by_name("no_such_module_abc.Thing")
    with pytest.raises(AttributeError, match="NoSuchClass"):
        util.get_obj_by_name("dnnlib.util.NoSuchClass")


def test_an_error_inside_an_existing_module_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module_abc.py").write_text("import package_that_is_missing_abc\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="package_that_is_missing_abc"):
        util.get_obj_by_name("broken_module_abc.Thing")


def test_introspection() -> None:
    folder = util.get_module_dir_by_obj_name("dnnlib.util.EasyDict")
    assert os.path.samefile(folder, os.path.dirname(dnnlib.__file__))
    assert util.is_top_level_function(util.format_time)
    assert not util.is_top_level_function(lambda: None)
    assert not util.is_top_level_function(3)
    assert util.get_top_level_function_name(json.dumps) == "json.dumps"
    with pytest.raises(ValueError, match="top level"):
        util.get_top_level_function_name(lambda: None)


def test_main_is_named_after_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def function() -> None:
        """Stands for a function of the main script."""

    main = types.ModuleType("__main__")
    main.__file__ = "/somewhere/train.py"
    main.function = function
    function.__module__ = "__main__"
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert util.get_top_level_function_name(function) == "train.function"
