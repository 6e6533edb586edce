"""dnnlib.util.Logger: a copy of the output in a file, and still a text stream."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from dnnlib.util import Logger


def test_writes_to_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.txt"
    with Logger(str(path)) as logger:
        print("out")
        print("err", file=sys.stderr)
        logger.write(b"bytes\n")
        logger.writelines(["a", "b\n"])
        assert path.read_text() == "out\nerr\nbytes\nab\n"
    print("afterwards")
    assert path.read_text() == "out\nerr\nbytes\nab\n"
    assert capsys.readouterr().out == "out\nerr\nbytes\nab\nafterwards\n"


def test_append_mode(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    for word in ("one", "two"):
        with Logger(str(path), file_mode="a"):
            print(word)
    assert path.read_text() == "one\ntwo\n"


def test_restores_after_an_exception_and_nests() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), Logger(), Logger():
        _ = 1 / 0
    assert (sys.stdout, sys.stderr) == before


def test_close_leaves_foreign_streams_alone() -> None:
    before = sys.stdout, sys.stderr
    other = io.StringIO()
    try:
        logger = Logger()
        sys.stdout = other
        logger.close()
        assert sys.stdout is other and sys.stderr is before[1]
        logger.close()
    finally:
        sys.stdout, sys.stderr = before


def test_answers_what_libraries_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    with open(tmp_path / "terminal", "wb") as raw:
        terminal = Terminal(raw, encoding="latin-1")
        monkeypatch.setattr(sys, "stdout", terminal)
        with Logger() as logger:
            assert logger.isatty() is True
            assert logger.fileno() == raw.fileno()
            assert logger.encoding == "latin-1"
            assert logger.buffer is raw
            with pytest.raises(AttributeError):
                _ = logger.no_such_attribute
