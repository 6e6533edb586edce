"""Reading pickles: ordinary values come back, and nothing that a hostile file asks for happens."""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dnnlib
from tests import hostile_files
from tests.hostile_files import Reduces, meta
from torch_utils import persistence, safe_pickle

BUNDLE = f"{persistence.BUNDLE_HEADER}\nraise RuntimeError('the bundle was run')\n"


class TinyLayer(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn([features, features]))


class TinyNetwork(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TinyLayer(features), TinyLayer(features)])
        self.register_buffer("count", torch.zeros([], dtype=torch.int64))


persistence.register([TinyLayer, TinyNetwork], source=lambda: BUNDLE, module=TinyNetwork.__module__)


PLAIN_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    max_leaves=10,
)


@settings(deadline=None, max_examples=50)
@given(value=PLAIN_VALUES, protocol=st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    assert persistence.read(pickle.dumps(value, protocol)) == value


def test_numbers_dtypes_and_easydicts_are_read():
    data = {
        "numpy": [np.float64(1.5), np.float32(2.5), np.int64(-3), np.bool_(True)],
        "torch": (torch.float32, torch.Size([2, 3]), torch.device("cpu")),
        "options": dnnlib.EasyDict(a=dnnlib.EasyDict(b=1)),
        "fractions": [Fraction(1, 3), Fraction(-2)],
        "tensors": [
            torch.arange(6).reshape(2, 3).t(),
            torch.tensor(True),
            torch.empty([0, 3]),
            torch.ones([2], dtype=torch.bfloat16),
        ],
    }
    new = persistence.read(pickle.dumps(data))
    assert new["numpy"] == [1.5, 2.5, -3, True] and type(new["numpy"][0]) is float
    assert new["torch"] == data["torch"]
    assert new["options"].a.b == 1
    assert new["fractions"] == data["fractions"]
    assert persistence.read(b"cfractions\nFraction\n(V-1/3\ntR.") == Fraction(-1, 3)
    for tensor, expected in zip(new["tensors"], data["tensors"]):
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected)


# Hostile files. Every one must be refused, and nothing may happen.


def _hostile(marker: str) -> dict[str, bytes]:
    huge = meta(BUNDLE, "TinyLayer", _init_args=(), _init_kwargs={"features": 1 << 16})
    return {
        **hostile_files.code(marker),
        **hostile_files.tensors(marker),
        **hostile_files.broken_streams(pickle.dumps({"G": TinyNetwork(4)})),
        "huge network": pickle.dumps(Reduces(persistence._reconstruct_persistent_obj, huge)),
    }


HOSTILE_NAMES = tuple(_hostile("marker"))


class Watch:
    """Records what the interpreter is asked to do while it is active (an audit hook stays)."""

    events = {"compile", "exec", "import", "os.system", "os.exec", "os.fork", "os.posix_spawn"}
    events |= {"open", "subprocess.Popen", "socket.connect", "ctypes.dlopen", "os.remove"}

    def __init__(self) -> None:
        self.active = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.active and event in self.events:
            self.seen.append(f"{event} {str(args)[:80]}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    # What reading itself imports is imported before the watch begins.
    persistence.read(pickle.dumps({"G": TinyNetwork(4), "x": np.float64(1)}))
    persistence.read(pickle.dumps("text", 0))
    with pytest.raises(dnnlib.UserError, match="does not have"):
        persistence.own_class("Unknown")
    unknown = Reduces(persistence._reconstruct_persistent_obj, meta("", "Unknown"))
    with pytest.raises(dnnlib.UserError, match="source code of its own"):
        persistence.read(pickle.dumps(unknown))
    return Watch()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_files_are_refused_and_nothing_happens(name, tmp_path, monkeypatch, watch):
    marker = tmp_path / "it_ran"
    (tmp_path / "hostile_module.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = _hostile(str(marker))[name]
    watch.seen.clear()
    watch.active = True
    try:
        with pytest.raises(dnnlib.UserError) as caught:
            persistence.read(io.BytesIO(content))
    finally:
        watch.active = False
    assert watch.seen == []
    assert not marker.exists()
    assert "hostile_module" not in sys.modules
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("huge network", "far larger than its tensors"),
        ("huge tensor", "does not fit its 4 stored elements"),
        ("overlapping tensor", "does not fit its 4 stored elements"),
        ("tensor outside its storage", "does not fit its 4 stored elements"),
        ("stride-0 tensor", "repeats its elements"),
        ("negative stride", "impossible numbers"),
        ("storage that claims more than it holds", "claims 1099511627776 elements but holds 1200"),
        ("memo number", "memo number 2147483647"),
        ("long bytes", "only 4 remain"),
        ("long bytearray", "only 4 remain"),
        ("long frame", "ends within a frame"),
        ("fraction", "fraction '1e999999999'"),
        ("set attributes of a class", "sealed"),
        ("extension code", "extension code at byte 2"),
    ],
)
def test_sizes_are_refused_for_their_own_sake(name, reason):
    """Not because the machine happened to run out of memory."""
    with pytest.raises(dnnlib.UserError, match=reason):
        persistence.read(_hostile("marker")[name])


def test_the_hostile_files_are_real(tmp_path):
    """An ordinary unpickler runs them."""
    marker = tmp_path / "it_ran"
    pickle.loads(_hostile(str(marker))["embedded source"])
    assert marker.exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "unknown module", "embedded source"])
def test_the_error_names_what_was_refused_and_the_way_out(name, tmp_path):
    with pytest.raises(safe_pickle.Refused) as caught:
        persistence.read(_hostile(str(tmp_path / "x"))[name])
    wanted = {"os.system": "posix.system" if os.name == "posix" else "nt.system"}
    wanted |= {"eval": "builtins.eval", "unknown module": "hostile_module.function"}
    assert wanted.get(name, "Attack") in str(caught.value)
    assert "allow_code=True" in str(caught.value)


@functools.lru_cache
def _sound_file() -> bytes:
    """One file for all examples: hypothesis needs the same choices when it repeats one."""
    return pickle.dumps({"G": TinyNetwork(4)})


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damaged_files_never_raise_anything_but_user_errors(data):
    content = bytearray(_sound_file())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([len(content), position]))
    try:
        persistence.read(bytes(content[:end]))
    except dnnlib.UserError:
        return
    assert end == len(content)
