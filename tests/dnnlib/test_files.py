"""dnnlib.files: atomic writing, listing, copying."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from dnnlib import util
from dnnlib.files import file_sha256


def test_atomic_path_publishes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_text("old")
    with util.atomic_path(path) as temporary:
        Path(temporary).write_text("new")
        assert path.read_text() == "old"
        assert temporary.endswith(".png") and os.path.dirname(temporary) == str(tmp_path)
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x.png"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_leaves_nothing_after_an_error(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error), util.atomic_path(tmp_path / "x") as temporary:
        Path(temporary).write_text("part")
        raise error
    assert os.listdir(tmp_path) == []


def test_list_dir_recursively_with_ignore(tmp_path: Path) -> None:
    for name in ("a.py", "b.pyc", "sub/c.py", "sub/__pycache__/d.py", "e/f.txt"):
        (tmp_path / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / name).write_text("")
    found = util.list_dir_recursively_with_ignore(str(tmp_path / "base"), ["*.pyc", "__pycache__"])
    assert [r.replace(os.sep, "/") for _a, r in found] == ["a.py", "e/f.txt", "sub/c.py"]
    assert all(os.path.isabs(a) and os.path.isfile(a) for a, _r in found)
    with_base = util.list_dir_recursively_with_ignore(
        str(tmp_path / "base"), add_base_to_relative=True
    )
    assert len(with_base) == 5
    assert all(r.replace(os.sep, "/").startswith("base/") for _a, r in with_base)
    with pytest.raises(NotADirectoryError, match="nowhere"):
        util.list_dir_recursively_with_ignore(str(tmp_path / "nowhere"))


def test_copy_files_and_create_dirs(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    target = tmp_path / "new" / "deep" / "b"
    util.copy_files_and_create_dirs([(str(tmp_path / "a"), str(target))])
    assert target.read_text() == "text"


@pytest.mark.parametrize("size", [0, 3, (1 << 20) + 1])
def test_file_sha256(tmp_path: Path, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "x").write_bytes(content[:size])
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content[:size]).hexdigest()
