"""dnnlib.progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

import dnnlib.progress
from dnnlib.progress import PlainProgress, progress
from dnnlib.util import Logger


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([3, 1, 2], desc="Sorting", unit="img")) == [3, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Sorting: 3/3 (100%) img in 0s")


def test_interval_and_postfix() -> None:
    out = io.StringIO()
    bar = PlainProgress(4, "Training", "kimg", interval_sec=0, file=out)
    with bar:
        bar.update()
        bar.set_postfix(loss=0.123456, tick=7)
        bar.update(2.5)
    bar.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Training: 1/4 (25%) kimg") and lines[0].endswith("left")
    assert "3.5/4" in lines[1] and lines[1].endswith("loss=0.123, tick=7")
    assert PlainProgress(4, interval_sec=1e9, file=out).total == 4


def test_unknown_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("ab"))) == ["a", "b"]
    assert capsys.readouterr().err.startswith("2 it in")
    with progress(None, "Downloading", "MB") as bar:
        bar.update(5)
    assert "Downloading: 5 MB" in capsys.readouterr().err


def test_a_total_cannot_be_iterated() -> None:
    with pytest.raises(TypeError, match="update"):
        list(PlainProgress(3, file=io.StringIO()))


def test_closed_when_the_loop_is_left_early() -> None:
    out = io.StringIO()
    for _item in PlainProgress([1, 2, 3], file=out):
        break
    assert out.getvalue().startswith("0/3")


def test_bar_on_a_terminal_stays_out_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Logger(str(tmp_path / "log.txt")):
        assert list(progress(range(3), desc="Bar")) == [0, 1, 2]
    assert "Bar: 100%" in terminal.getvalue()
    assert (tmp_path / "log.txt").read_text() == ""


def test_terminal_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Terminal())
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert isinstance(dnnlib.progress.progress(3), PlainProgress)
