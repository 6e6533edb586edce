"""Libraries of C functions: built once by many, after a killed build too; errors that explain."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torch_utils import compilers, custom_ops
from torch_utils.custom_ops import ExtensionBuildError, get_library

pytestmark = pytest.mark.skipif(
    bool(compilers.missing_tools(uses_cuda=False, uses_python=False)), reason="no compiler or ninja"
)

ROOT = Path(custom_ops.__file__).parents[1]
SOURCE = 'extern "C" int answer() { return 42; }\n'

# What the compiler is asked is counted, and it takes its time; {wait}: seconds.
COMPILER = """\
#!/bin/sh
case " $* " in *" -c "*) echo $$ >>"{log}"; sleep {wait};; esac
exec {real} "$@"
"""

CLIENT = """
import sys
from torch_utils import custom_ops
library = custom_ops.get_library("answer_library", [sys.argv[1]], extra_cflags=["-O0"])
assert library.answer() == 42
print("right")
"""


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(custom_ops, "_outcomes", {})
    (tmp_path / "answer.cpp").write_text(SOURCE)
    yield


def slow_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Path:
    """Makes a slow compiler that writes a line per object file; returns where it writes."""
    real, log = compilers._find_cxx(), folder / "compiled.log"
    script = folder / "slow-c++"
    script.write_text(COMPILER.format(log=log, wait=seconds, real=real))
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return log


def client(source: Path) -> subprocess.Popen[str]:
    """Another process that builds or loads the library, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(source)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    """Until `condition()` is true; fails if the process ends before."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def end_group(process: subprocess.Popen[str]) -> None:
    """Ends a process that we started and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.communicate()


def test_several_processes_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = slow_compiler(tmp_path, monkeypatch, 0.5)
    processes = [client(tmp_path / "answer.cpp") for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert all(output.endswith("right\n") for output in outputs)
    assert len(log.read_text().splitlines()) == 1
    # Afterwards nothing but the binary and the lock's file is left.
    (binary,) = (tmp_path / "cache").glob("answer_library/*/answer_library_*")
    assert sorted(path.name for path in binary.parent.iterdir()) == [binary.name, "build.lock"]


@pytest.mark.parametrize("whole_group", [True, False], ids=["all-killed", "compiler-lives-on"])
def test_a_killed_build_does_not_block_the_next(
    whole_group: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = slow_compiler(tmp_path, monkeypatch, 60)
    killed = client(tmp_path / "answer.cpp")
    try:
        wait_for(log.exists, killed)
        (lock,) = (tmp_path / "cache").glob("answer_library/*/build.lock")
        left_over = list(lock.parent.glob("build-*"))
        assert len(left_over) == 1
        if whole_group:
            os.killpg(killed.pid, signal.SIGKILL)
        else:
            killed.kill()
        killed.wait(timeout=30)
        # Another script of the same name and text: the key does not change, the waiting does.
        script = Path(os.environ["CXX"])
        script.write_text(script.read_text().replace("sleep 60", "sleep 0"))
        start = time.monotonic()
        following = client(tmp_path / "answer.cpp")
        output = following.communicate(timeout=60)[0]
        assert output.endswith("right\n") and time.monotonic() - start < 40
        assert len(log.read_text().splitlines()) == 2 and not left_over[0].exists()
    finally:
        end_group(killed)


def test_a_library_is_loaded_once_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = get_library("answer_library", [str(tmp_path / "answer.cpp")])
    assert isinstance(library, ctypes.CDLL) and library.answer() == 42
    assert get_library("answer_library", [str(tmp_path / "answer.cpp")]) is library
    # Another process needs no compiler for what is built.
    monkeypatch.setattr(custom_ops, "_outcomes", {})
    monkeypatch.setattr(custom_ops, "missing_tools", lambda *args, **kwargs: ["no compiler"])
    assert get_library("answer_library", [str(tmp_path / "answer.cpp")]).answer() == 42
    (tmp_path / "answer.cpp").write_text(SOURCE.replace("42", "43"))
    monkeypatch.setattr(custom_ops, "_outcomes", {})
    with pytest.raises(ExtensionBuildError, match="no compiler"):
        get_library("answer_library", [str(tmp_path / "answer.cpp")])


def test_a_failed_build_is_one_error_with_causes_and_cures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = slow_compiler(tmp_path, monkeypatch, 0)
    (tmp_path / "answer.cpp").write_text(SOURCE.replace("42", "undeclared_name_abc"))
    errors = []
    for _ in range(2):
        with pytest.raises(ExtensionBuildError) as info:
            get_library("answer_library", [str(tmp_path / "answer.cpp")])
        errors.append(info.value)
    assert errors[0] is errors[1] and len(log.read_text().splitlines()) == 1
    message = str(errors[0])
    for part in ("'answer_library'", "undeclared_name_abc", "slow-c++", "ninja: ", "impl='ref'"):
        assert part in message
    assert capsys.readouterr().err.count("Failed!") == 1
    assert not list((tmp_path / "cache").glob("answer_library/*/build-*"))


USE_FMM_TWICE = """
import torch
from ops import _dispatch
from ops._native import register_native
from ops.fmm import fmm

register_native("fmm", header="fmm.h", cpu_sources=("fmm_cpu.cpp",))
for _ in range(2):
    assert fmm(torch.ones(2, 3), torch.ones(1, 2, 1), torch.ones(1, 1, 3)).shape == (1, 2, 3)
try:
    fmm(torch.ones(2, 3), torch.ones(1, 2, 1), torch.ones(1, 1, 3), impl="cpp")
except RuntimeError as error:
    print(error)
"""


def test_without_a_compiler_it_is_said_once_and_everything_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = subprocess.run(
        [sys.executable, "-c", USE_FMM_TWICE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    cause = "no C++ compiler is found: install g++ or clang++, or set CXX"
    assert done.stderr.splitlines() == [f"plain PyTorch instead of compiled cpp kernels: {cause}"]
    assert done.stdout == f"fmm: impl='cpp' cannot run: {cause}\n"


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file"))
    with pytest.raises(ExtensionBuildError, match="set TORCH_EXTENSIONS_DIR to another folder"):
        get_library("answer_library", [str(tmp_path / "answer.cpp")])
