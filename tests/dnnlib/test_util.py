"""dnnlib.util: EasyDict, times, types, pickling, the cache folder."""

from __future__ import annotations

import copy
import ctypes
import pickle
import threading

import numpy as np
import pytest

import dnnlib
from dnnlib import EasyDict, util


def test_easy_dict_attributes_are_items() -> None:
    d = EasyDict(a=1)
    d.b = 2
    assert d == {"a": 1, "b": 2} and d.a == 1 and d["b"] == 2
    del d.a
    assert list(d) == ["b"]


def test_easy_dict_missing_names() -> None:
    d = EasyDict(a=1)
    with pytest.raises(AttributeError, match="'b'"):
        _ = d.b
    with pytest.raises(AttributeError, match="'b'"):
        del d.b
    with pytest.raises(KeyError):
        _ = d["b"]
    assert not hasattr(d, "b") and getattr(d, "b", 7) == 7


def test_easy_dict_copies_and_pickles_under_its_public_name() -> None:
    d = EasyDict(a=EasyDict(b=[1]))
    data = pickle.dumps(d)
    assert b"dnnlib.util" in data and b"EasyDict" in data
    for other in (pickle.loads(data), copy.deepcopy(d)):
        assert type(other) is EasyDict and other.a.b == [1] and other.a.b is not d.a.b


@pytest.mark.parametrize(
    ("seconds", "text", "brief"),
    [
        (0, "0s", "0s"),
        (4.6, "5s", "5s"),
        (59.6, "1m 00s", "1m 00s"),
        (65, "1m 05s", "1m 05s"),
        (3700, "1h 01m 40s", "1h 01m"),
        (86399.7, "1d 00h 00m", "1d 00h"),
        (90000, "1d 01h 00m", "1d 01h"),
        (100 * 86400, "100d 00h 00m", "100d 00h"),
    ],
)
def test_format_time(seconds: float, text: str, brief: str) -> None:
    assert util.format_time(seconds) == text
    assert util.format_time_brief(seconds) == brief


def test_ask_yes_no_repeats_until_it_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["", "perhaps", "Yes"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(answers))
    assert util.ask_yes_no("Go on?") == 1
    assert capsys.readouterr().out.count("y or n") == 2
    monkeypatch.setattr("builtins.input", lambda _prompt: "off")
    assert util.ask_yes_no("Go on?") == 0


def test_tuple_product() -> None:
    assert util.tuple_product((2, 3, 4)) == 24
    assert util.tuple_product(()) == 1


@pytest.mark.parametrize("spelling", ["float32", "np.float32", np.float32, np.dtype("float32")])
def test_get_dtype_and_ctype(spelling: object) -> None:
    assert util.get_dtype_and_ctype(spelling) == (np.dtype("float32"), ctypes.c_float)


def test_get_dtype_and_ctype_sizes_agree() -> None:
    for name in ("uint8", "int16", "uint32", "int64", "float64"):
        dtype, ctype = util.get_dtype_and_ctype(name)
        assert dtype.itemsize == ctypes.sizeof(ctype)
    with pytest.raises(ValueError, match="complex64"):
        util.get_dtype_and_ctype("complex64")


def test_is_pickleable() -> None:
    assert util.is_pickleable({"a": [1, np.zeros(2)]})
    assert not util.is_pickleable(threading.Lock())


def test_cache_dir_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DNNLIB_CACHE_DIR", "HOME", "USERPROFILE"):
        monkeypatch.delenv(variable, raising=False)

    def root() -> str:
        return dnnlib.make_cache_dir_path("x", "y").replace("\\", "/")

    assert root().endswith("/.cache/dnnlib/x/y")
    monkeypatch.setenv("USERPROFILE", "/profile")
    assert root() == "/profile/.cache/dnnlib/x/y"
    monkeypatch.setenv("HOME", "/home/me")
    assert root() == "/home/me/.cache/dnnlib/x/y"
    monkeypatch.setenv("DNNLIB_CACHE_DIR", "/elsewhere")
    assert root() == "/elsewhere/x/y"
    util.set_cache_dir("/given")
    try:
        assert root() == "/given/x/y"
    finally:
        util.set_cache_dir(None)
    assert root() == "/elsewhere/x/y"
