"""Hostile snapshots in a process of their own, which watches what reading them does."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import networks
from networks import safetensors_file
from tests import hostile_files
from tests.hostile_files import Reduces, meta
from torch_utils import persistence

ROOT = Path(__file__).resolve().parents[2]
FOREIGN_TEXT = "open('it_ran', 'w').close()"
MAX_GROWTH_BYTES = 256 << 20

WATCHER = """
import codecs, json, os, resource, sys, traceback
folder = sys.argv[1]
import dnnlib, networks, training
from networks.snapshot_file import read_snapshot
networks.Generator, training.AugmentPipe

# What reading itself needs is imported first: all importers, both formats, an error, and the codec
# of the oldest pickle protocol.
codecs.lookup("raw-unicode-escape")
for name in ("sound.pkl", "sound.safetensors", "unknown.pkl"):
    try:
        read_snapshot(os.path.join(folder, name))
    except dnnlib.UserError:
        assert name == "unknown.pkl"

events, active = [], False

def watch(event, args):
    if not active:
        return
    if event == "open":
        path, mode = str(args[0]), args[1]
        if path.startswith(folder) and mode == "r":
            return
    if event in WATCHED or event.startswith(FAMILIES):
        events.append(event + " " + str(args)[:200])

FAMILIES = ("os.", "socket.", "subprocess.", "shutil.", "ctypes.")
WATCHED = ("open", "import", "exec", "compile", "marshal.loads", "code.__new__", "sys.setprofile")
sys.addaudithook(watch)
results = {}
for name in sorted(os.listdir(folder)):
    if name in ("sound.pkl", "sound.safetensors", "unknown.pkl", "control.pkl"):
        continue
    modules = set(sys.modules)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    events.clear()
    active = True
    try:
        read_snapshot(os.path.join(folder, name))
        message = None
    except dnnlib.UserError as error:
        message = str(error)
    except BaseException:
        message = traceback.format_exc()
    active = False
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    results[name] = [message, list(events), sorted(set(sys.modules) - modules), 1024 * growth]
# That the watch sees what it should: one harmless file whose wish is granted.
events.clear()
active = True
try:
    read_snapshot(os.path.join(folder, "control.pkl"), allow_code=True)
except dnnlib.UserError:
    pass
active = False
print(json.dumps([results, list(events)]))
"""


def persistent(text: str, class_name: str, **state: Any) -> bytes:
    return pickle.dumps(
        Reduces(persistence._reconstruct_persistent_obj, meta(text, class_name, **state))
    )


def make_generator() -> torch.nn.Module:
    return networks.Generator(4, 0, 4, 8, 1, synthesis_kwargs={"channel_max": 4})


def networks_larger_than_their_files() -> dict[str, bytes]:
    """Constructor arguments that ask for everything, in all kinds of files."""
    G = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 8, "img_channels": 1}
    own = persistence.BUNDLE_HEADER
    shared: list[Any] = []
    for _ in range(60):
        shared = [shared, shared]
    cases = {
        "wide": {**G, "w_dim": 1 << 21},
        "large": {
            **G,
            "img_resolution": 1 << 20,
            "synthesis_kwargs": {"channel_base": 1 << 22},
        },
        "deep": {**G, "mapping_kwargs": {"num_layers": 1 << 21}},
        "endless": {**G, "mapping_kwargs": {"num_layers": 1 << 60}},
        "text": {**G, "z_dim": "4"},
        "shared": {**G, "synthesis_kwargs": {"resample_filter": shared}},
    }
    found = {}
    for name, kwargs in cases.items():
        for text, label in ((own, "own"), (FOREIGN_TEXT, "foreign")):
            content = persistent(text, "Generator", _init_args=(), _init_kwargs=kwargs)
            found[f"{label} {name}"] = content
    published = {**G, "cfg": {"upsampling_mode": "nearest", "input": {"resolution": 1 << 20}}}
    found["published"] = persistent(
        FOREIGN_TEXT, "Generator", _init_args=(), _init_kwargs=published
    )
    found["layer"] = persistent(
        own, "FullyConnectedLayer", _init_args=(1 << 21, 1 << 21), _init_kwargs={}
    )
    return found


def shared_bytes() -> dict[str, bytes]:
    """A megabyte of numbers, thousands of times."""
    storage = torch.zeros([1 << 18]).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    size = (1 << 18,)
    views = [
        Reduces(torch._utils._rebuild_tensor_v2, typed, 0, size, (1,), False, {})
        for _ in range(5000)
    ]
    array = np.zeros([1 << 18], np.float32)
    build = Reduces(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b").call
    content = array.tobytes()
    arrays = []
    for _ in range(5000):
        arrays.append(_Stateful(build, (1, size, array.dtype, False, content)))
    return {
        "shared tensors": pickle.dumps(views),
        "shared tensors of a network": persistent(
            persistence.BUNDLE_HEADER,
            "FullyConnectedLayer",
            _init_args=(4, 4),
            _init_kwargs={},
            _buffers={str(index): view for index, view in enumerate(views)},
        ),
        "shared arrays": pickle.dumps(arrays),
        "huge array": pickle.dumps(_Stateful(build, (1, (1 << 40,), array.dtype, False, b"1234"))),
        "array of objects": pickle.dumps(np.asarray([print], dtype=object)),
    }


class _Stateful:
    """Pickles as a call followed by a state."""

    def __init__(self, call: Any, state: Any) -> None:
        self.parts = (*call, state)

    def __reduce__(self) -> Any:
        return self.parts


def hostile_safetensors() -> dict[str, bytes]:
    content = safetensors_file.encode({"G_ema": make_generator()}, {})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = header["__metadata__"]["inr-gan"]
    found = {"truncated": content[: length + 100]}
    changes = {
        "huge": text.replace('"w_dim": 4', f'"w_dim": {1 << 21}'),
        "class": text.replace('"class": "Generator"', '"class": "os.system"'),
        "argument": text.replace(
            '"z_dim": 4', '"z_dim": {"$": "os.system", "value": "touch it_ran"}'
        ),
    }
    for name, changed in changes.items():
        assert changed != text
        new = json.dumps({**header, "__metadata__": {"inr-gan": changed}}).encode()
        found[name] = len(new).to_bytes(8, "little") + new + content[8 + length :]
    return {f"{name}.safetensors": value for name, value in found.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, list[Any]]:
    """Per file: the message, events, modules that were imported, growth of the memory in bytes."""
    work = tmp_path_factory.mktemp("hostile")
    folder = work / "files"
    folder.mkdir()
    sound = pickle.dumps({"G_ema": make_generator()})
    files = {
        **hostile_files.code(str(work / "it_ran")),
        **hostile_files.tensors(str(work / "it_ran")),
        **hostile_files.broken_streams(sound),
        **networks_larger_than_their_files(),
        **shared_bytes(),
        "unknown": persistent(FOREIGN_TEXT, "Unknown"),
        "sound": sound,
        "control": pickle.dumps(Reduces(os.system, "exit")),
    }
    for name, content in files.items():
        (folder / f"{name.replace(' ', '_')}.pkl").write_bytes(content)
    for name, content in hostile_safetensors().items():
        (folder / name).write_bytes(content)
    content = safetensors_file.encode({"G_ema": make_generator()}, {})
    (folder / "sound.safetensors").write_bytes(content)
    (work / "hostile_module.py").write_text("open('it_ran', 'w').close()\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(work)])}
    done = subprocess.run(
        [sys.executable, "-c", WATCHER, str(folder)],
        cwd=work, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in work.iterdir()) == ["files", "hostile_module.py"]
    found, control = json.loads(done.stdout)
    assert any(event.startswith("os.system") for event in control)
    assert len(found) == len(files) + len(hostile_safetensors()) - 3
    return found


def test_every_file_is_refused_in_one_sentence(results):
    for name, (message, *_) in results.items():
        assert message is not None, f"{name} was read"
        assert message.startswith("--network=") and "\n" not in message, message


def test_nothing_was_opened_started_connected_or_imported(results):
    for name, (_, events, modules, _) in results.items():
        assert events == [], name
        assert modules == [], name


def test_the_memory_stayed_small(results):
    growth = {name: row[3] for name, row in results.items() if row[3] > MAX_GROWTH_BYTES}
    assert growth == {}


@pytest.mark.parametrize(
    "name, reason",
    [
        ("os.system.pkl", "needs '(posix|nt).system'"),
        ("nested__load_from_bytes.pkl", "(posix|nt).system' inside a tensor"),
        ("stride-0_tensor.pkl", "repeats its elements"),
        ("huge_tensor.pkl", "does not fit its 4 stored elements"),
        ("truncated.pkl", "damaged, or was not downloaded completely"),
        ("embedded_source.pkl", "the class 'Attack' with source code of its own"),
        ("own_wide.pkl", "far larger than its tensors"),
        ("foreign_large.pkl", "far larger than its tensors"),
        ("own_deep.pkl", "far larger than its tensors"),
        ("foreign_endless.pkl", "enormous number"),
        ("own_shared.pkl", "values without end"),
        ("foreign_shared.pkl", "values without end"),
        ("shared_tensors.pkl", "share their bytes"),
        ("shared_tensors_of_a_network.pkl", "share their bytes"),
        ("shared_arrays.pkl", "share their bytes"),
        ("huge_array.pkl", "does not fit its 4 bytes"),
        ("array_of_objects.pkl", "numpy dtype 'O8'|builtins.print"),
        ("huge.safetensors", "far larger than its tensors"),
        ("class.safetensors", "'os.system' that this version does not have"),
        ("argument.safetensors", "unknown type 'os.system'"),
    ],
)
def test_the_message_says_what_is_wrong(results, name, reason):
    assert re.search(reason, results[name][0]), results[name][0]
