"""torch_utils.custom_ops: build, cache, rebuild; failures that explain themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from torch_utils import compilers, custom_ops
from torch_utils.custom_ops import ExtensionBuildError, get_plugin

needs_compiler = pytest.mark.skipif(
    bool(compilers.missing_tools(uses_cuda=False)), reason="no C++ compiler, ninja or Python.h"
)

# Plain pybind11 instead of torch/extension.h: the same machinery, a tenth of the compile time.
SOURCE = """
#include <pybind11/pybind11.h>
#include "answer.h"
int answer() { return ANSWER; }
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("answer", &answer); }
"""


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(custom_ops, "_outcomes", {})
    yield


def write_sources(folder: Path, answer: str = "42") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "answer.cpp").write_text(SOURCE)
    (folder / "answer.h").write_text(f"#define ANSWER {answer}\n")
    return str(folder)


def build(folder: str, **kwargs: object) -> object:
    return get_plugin(
        "answer_plugin",
        ["answer.cpp"],
        headers=["answer.h"],
        source_dir=folder,
        extra_cflags=["-O0"],
        **kwargs,
    )


def binaries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("answer_plugin/*/answer_plugin_*"))


@needs_compiler
@pytest.mark.slow
def test_build_cache_and_rebuild(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sources(tmp_path / "src")
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")  # as in a venv not activated
    plugin = build(folder)
    assert plugin.answer() == 42
    assert os.environ["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert capsys.readouterr().err == 'Setting up PyTorch plugin "answer_plugin"... Done.\n'
    assert build(folder) is plugin and capsys.readouterr().err == ""
    (binary,) = binaries(tmp_path)
    assert sorted(p.name for p in binary.parent.iterdir()) == [binary.name, "build.lock"]

    # Another process finds the binary and needs no compiler.
    code = f"""
from torch_utils import compilers, custom_ops
compilers._find_cxx = lambda: None
custom_ops.verbosity = "none"
assert custom_ops.get_plugin("answer_plugin", ["answer.cpp"], headers=["answer.h"],
    source_dir={folder!r}, extra_cflags=["-O0"]).answer() == 42
"""
    root = Path(custom_ops.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=root)

    # A damaged binary is replaced; what an interrupted build left behind is cleared away.
    binary.write_bytes(b"not a library")
    (binary.parent / "build-interrupted").mkdir()
    monkeypatch.setattr(custom_ops, "_outcomes", {})
    assert build(folder).answer() == 42
    assert not (binary.parent / "build-interrupted").exists()


@needs_compiler
@pytest.mark.slow
def test_broken_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sources(tmp_path / "src", answer="undeclared_name_abc")
    with pytest.raises(ExtensionBuildError) as info:
        build(folder)
    message = str(info.value)
    for part in (
        "'answer_plugin'",
        "answer.cpp",
        "undeclared_name_abc",
        "C++ compiler: ",
        "ninja: ",
        "nvcc: ",
        torch.__version__,
        "impl='ref'",
        "docs/troubleshooting.md",
    ):
        assert part in message
    assert capsys.readouterr().err.endswith("... Failed!\n")
    start = time.monotonic()
    with pytest.raises(ExtensionBuildError) as again:
        build(folder)
    assert again.value is info.value and time.monotonic() - start < 0.1
    assert capsys.readouterr().err == "" and binaries(tmp_path) == []


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sources(tmp_path / "src")
    for name in ("_find_cxx", "_find_ninja", "_find_nvcc", "_python_headers"):
        monkeypatch.setattr(compilers, name, lambda: None)
    with pytest.raises(ExtensionBuildError) as info:
        build(folder)
    for part in ("no C++ compiler", "pip install ninja", "Python.h"):
        assert part in str(info.value)
    assert "CUDA toolkit" not in str(info.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_sources_without_cuda(tmp_path: Path) -> None:
    (tmp_path / "kernel.cu").write_text("")
    with pytest.raises(ExtensionBuildError, match=r"(built without CUDA|nvcc|no GPU)"):
        get_plugin("cuda_plugin", [str(tmp_path / "kernel.cu")])


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(ExtensionBuildError, match=r"cannot read a source.*no_such\.cpp"):
        get_plugin("lost_plugin", ["no_such.cpp"], source_dir=str(tmp_path))


def test_key_depends_on_what_the_binary_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_sources(tmp_path / "src")
    source, header = f"{folder}/answer.cpp", f"{folder}/answer.h"

    def key(flags: str = "-O2", uses_cuda: bool = False) -> str:
        return custom_ops._build_key([source], [header], {"extra_cflags": [flags]}, uses_cuda)

    keys = [key(), key(flags="-O3"), key(uses_cuda=True)]
    monkeypatch.setattr(custom_ops, "gpu_architectures", lambda: ["9.0"])
    keys.append(key(uses_cuda=True))
    monkeypatch.setattr(torch, "__version__", "99.0")
    keys.append(key())
    write_sources(tmp_path / "src", answer="7")
    keys.append(key())
    assert len(set(keys)) == len(keys) and key() == keys[-1]


def test_verbosity_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_ops, "verbosity", "loud")
    with pytest.raises(AssertionError, match="loud"):
        get_plugin("x", [])
