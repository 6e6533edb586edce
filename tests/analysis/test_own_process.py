"""Measurements in processes of their own: results, errors, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis.own_process import in_own_process

ROOT = Path(__file__).resolve().parents[2]

# Prints the process that works, which would do so for a minute.
LONG_WORK = """
import os, sys, time
from analysis.own_process import in_own_process

def work():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    in_own_process(work)
"""


def process_and(text: str) -> str:
    return f"{os.getpid()} {text}"


def fail() -> None:
    raise ZeroDivisionError("as it is")


def test_results_and_errors_come_back() -> None:
    number, text = in_own_process(process_and, "text").split()
    assert int(number) != os.getpid() and text == "text"
    with pytest.raises(ZeroDivisionError, match="as it is"):
        in_own_process(fail)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_process_ends_with_the_one_that_waits(number: int, tmp_path: Path) -> None:
    script = tmp_path / "long_work.py"
    script.write_text(LONG_WORK)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    )
    child = int(parent.stdout.readline())
    parent.send_signal(number)
    assert parent.wait(30) != 0
    deadline = time.monotonic() + 30
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # What nobody waits for any more may stay as an entry without a process.
    stat = Path(f"/proc/{process}/stat")
    return not (stat.exists() and stat.read_text().split()[2] == "Z")
