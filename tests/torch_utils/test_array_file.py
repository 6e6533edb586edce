"""torch_utils.array_file: arrays come back bit by bit; damaged and hostile files are one error."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dnnlib.errors import FileError
from torch_utils.array_file import read_arrays, write_arrays

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "n": np.array(7)}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for arrays in ({"old": np.zeros(3)}, ARRAYS):
        write_arrays(path, arrays)
    found = read_arrays(path)
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "x.npz").mkdir()
    for path in (tmp_path / "x.npz", tmp_path / "missing" / "x.npz"):
        with pytest.raises(FileError, match=r"cannot write .*x\.npz': "):
            write_arrays(path, ARRAYS)
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


def huge_array() -> bytes:
    """An .npz file of a few bytes that claims to hold 8 EB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**18,)}
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", header.getvalue())
    return file.getvalue()


def damaged(compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, w=np.random.RandomState(0).rand(500))
    content = bytearray(file.getvalue())
    content[300:320] = bytes(20)
    return bytes(content)


def lone_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", lone_array(), huge_array(), damaged(True), damaged(False), huge_array()[:-9]],
    ids=["empty", "text", "npy", "huge", "damaged compressed", "damaged", "short"],
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_arrays(path)
    assert "allow_pickle=`" not in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="directory"):
        read_arrays(tmp_path)
