"""Files that must not be opened: each asks for something that must not happen."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
import sys
from typing import Any

import torch

from torch_utils import persistence


class Reduces:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def meta(text: str, class_name: str, **state: Any) -> dict[str, Any]:
    return {
        "type": "class",
        "version": 6,
        "module_src": text,
        "class_name": class_name,
        "state": state,
    }


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Reduces:
    storage = torch.zeros([4]).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    return Reduces(torch._utils._rebuild_tensor_v2, typed, offset, size, stride, False, {})


def storage_claiming(numel: int) -> Reduces:
    """A storage of 300 elements whose header says another number."""
    operations = pickletools.genops(pickle.dumps(torch.zeros([300])))
    data = next(argument for op, argument, _ in operations if op.name.startswith("BINBYTES"))
    number = (300).to_bytes(2, "little")
    assert data.count(b"M" + number) == 1
    data = data.replace(b"M" + number, b"\x8a\x06" + numel.to_bytes(6, "little"))
    return Reduces(torch.storage._load_from_bytes, data)


def code(marker: str) -> dict[str, bytes]:
    """Files that try to run something; `marker` is a file that would be there if one had."""
    command = f"{sys.executable} -c 'open(chr(120),chr(119))' ; touch {marker}"
    attack = f"open({marker!r}, 'w').close()\nclass Attack: pass\n"
    return {
        "os.system": pickle.dumps(Reduces(os.system, command)),
        "os.system, protocol 0": pickle.dumps(Reduces(os.system, command), 0),
        "eval": pickle.dumps(Reduces(eval, f"open({marker!r}, 'w')")),
        "subprocess": pickle.dumps(Reduces(subprocess.Popen, ["touch", marker])),
        "unknown module": b"chostile_module\nfunction\n(tR.",
        "instance of a module's class": b"(ihostile_module\nClass\n.",
        "getattr": b"cbuiltins\ngetattr\n.",
        "embedded source": pickle.dumps(
            Reduces(persistence._reconstruct_persistent_obj, meta(attack, "Attack"))
        ),
        "embedded source under our header, unknown class": pickle.dumps(
            Reduces(
                persistence._reconstruct_persistent_obj,
                meta(f"{persistence.BUNDLE_HEADER}\n{attack}", "os.system"),
            )
        ),
        "hostile constructor argument": pickle.dumps(
            Reduces(
                persistence._reconstruct_persistent_obj,
                meta(
                    f"{persistence.BUNDLE_HEADER}\n{attack}",
                    "MappingNetwork",
                    _init_args=(Reduces(os.system, command),),
                    _init_kwargs={},
                ),
            )
        ),
    }


def tensors(marker: str) -> dict[str, bytes]:
    """Tensors that hide a pickle of their own or claim more memory than the file holds."""
    nested = pickle.dumps(Reduces(os.system, f"touch {marker}"), 2)
    big = (1 << 40,)
    return {
        "nested _load_from_bytes": pickle.dumps(
            Reduces(
                torch._utils._rebuild_tensor_v2,
                Reduces(torch.storage._load_from_bytes, nested),
                *(0, (1,), (1,), False, {}),
            )
        ),
        "huge tensor": pickle.dumps(tensor(big, (1,))),
        "stride-0 tensor": pickle.dumps(tensor(big, (0,))),
        "overlapping tensor": pickle.dumps(tensor((3, 3), (1, 1))),
        "tensor outside its storage": pickle.dumps(tensor((2,), (1,), offset=3)),
        "negative stride": pickle.dumps(tensor((2,), (-1,), offset=3)),
        "storage that claims more than it holds": pickle.dumps(
            Reduces(
                torch._utils._rebuild_tensor_v2,
                storage_claiming(1 << 40),
                *(0, (1,), (1,), False, {}),
            )
        ),
    }


def endless_key(as_member: bool = False) -> bytes:
    """A dict whose key is a pair of equal pairs, 60 deep: 2^60 values to a hash function."""
    key: tuple[Any, ...] = ()
    for _ in range(60):
        key = (key, key)
    # The key as a value first, so that nothing is hashed here; then the same stream with
    # instructions that use it.
    stream = pickle.dumps([key], 4)
    assert stream.endswith(b"a.") and stream.count(b"]\x94") == 1
    stream = stream.replace(b"]\x94", b"\x8f\x94(" if as_member else b"}\x94")
    return stream[:-2] + (b"\x90." if as_member else b"Ns.")


def broken_streams(sound: bytes) -> dict[str, bytes]:
    """Streams with absurd lengths, misused instructions, or no pickle at all.

    Args:
        sound: A whole file, to be truncated.
    """
    return {
        "memo number": b"\x80\x04Nr\xff\xff\xff\x7f0N.",
        "long bytes": b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00abc.",
        "long bytearray": b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00abc.",
        "long frame": b"\x80\x04\x95\x00\x00\x00\x00\x00\x01\x00\x00N.",
        "fraction": b"cfractions\nFraction\n(V1e999999999\ntR.",
        "set attributes of a class": b"cdnnlib\nEasyDict\n(N}Vget\nI1\nstb.",
        "set attributes of a function": b"ccollections\nOrderedDict\n}V_function\nI1\nsb.",
        "a list that contains itself": b"]q\x00h\x00a.",
        "deep nesting": b"]" * 200_000 + b"a" * 199_999 + b".",
        "endless key": endless_key(),
        "endless member of a set": endless_key(as_member=True),
        "persistent id": b"Vabc\nQ.",
        "extension code": b"\x80\x02\x82\x01.",
        "truncated": sound[:-200],
        "truncated at the start": sound[:20],
        "empty": b"",
        "text": b"hello, this is not a pickle",
        "web page": b"<!DOCTYPE html><html>not found</html>",
        "zip archive": b"PK\x03\x04" + b"\0" * 40,
    }
