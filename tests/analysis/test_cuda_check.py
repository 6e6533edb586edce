"""`make cuda-check`: what is compiled, what is read from the compilers' words, what fails."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from analysis import cuda_check
from analysis.cuda_check import Usage
from ops._native import registration

LOG = """\
ptxas info    : 0 bytes gmem, 24 bytes cmem[4]
ptxas info    : Compiling entry function '_ZN3_GN4scanIfLi4EEEvPT_' for 'sm_90a'
ptxas info    : Function properties for _ZN3_GN4scanIfLi4EEEvPT_
    320 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 61 registers, used 1 barriers, 320 bytes cumulative stack size, 512 bytes smem
ptxas info    : Compile time = 39.686 ms
ptxas info    : Compiling entry function 'copy' for 'sm_90a'
ptxas info    : Function properties for copy
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 360 bytes cmem[0]
"""

FAKE_NVCC = """\
#!/bin/sh
case "$*" in
  *--list-gpu-arch*) printf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\n'; exit 0;;
  *broken.cu*) echo 'broken.cu(3): error: identifier "x" is undefined' >&2; exit 2;;
esac
for last; do :; done
cat "$FAKE_LOG"; touch "$last"
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two kernels and one C++ file, and a compiler that says what we want."""
    for name in ("scan/scan.cu", "copy/copy.cu", "copy/copy_cpu.cpp"):
        path = tmp_path / "ops" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("int answer() { return 42; }\n")
    (tmp_path / "log").write_text(LOG.replace("sm_90a", "sm_90"))
    compiler = tmp_path / "nvcc"
    compiler.write_text(FAKE_NVCC)
    compiler.chmod(0o755)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(cuda_check, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_check, "find_nvcc", lambda: str(compiler))
    return tmp_path


def test_usage_is_read_from_ptxas() -> None:
    rows = cuda_check.parse_usage(LOG)
    assert rows == [
        Usage("_ZN3_GN4scanIfLi4EEEvPT_", 90, registers=61, spills=12, stack=320, shared=512),
        Usage("copy", 90, registers=8, spills=0, stack=0, shared=0),
    ]
    assert cuda_check.parse_usage("nvcc said nothing") == []


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs c++filt")
def test_names_are_demangled() -> None:
    mangled = "_ZN30_GLOBAL__N__2cdaec7b_4_x_cu_go12scale_kernelIdLi40EEEvNS_1PIT_XT0_EEE"
    names = cuda_check.demangle([mangled, "plain_c"], "c++filt")
    assert [cuda_check.short_name(name) for name in names] == [
        "scale_kernel<double, 40>",
        "plain_c",
    ]


def test_short_names() -> None:
    short = cuda_check.short_name
    assert short("void (anonymous namespace)::f<float, 3>(P<float>)") == "f<float, 3>"
    assert short("void f<&(g(int))>(int (*)(int), long)") == "f<&(g(int))>"
    assert short("f") == "f"


def test_table_has_a_column_per_architecture() -> None:
    rows = [
        Usage("f", 75, 61, 0, 320, 512),
        Usage("f", 90, 32, 8, 0, 512),
        Usage("g", 90, 8, 0, 0, 0),
    ]
    assert cuda_check.usage_table(rows) == [
        ["kernel", "sm_75", "sm_90"],
        ["f", "61 / 0 / 320 / 512", "32 / 8 / 0 / 512"],
        ["g", "-", "8 / 0 / 0 / 0"],
    ]


def test_one_object_per_file_and_target(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_check, "known_processors", lambda cxx: ["native", "x86-64-v3"])
    (tree / "ops" / "_native").mkdir()
    (tree / "ops" / "_native" / "emulate.cpp").write_text("#include INR_SOURCE\n")
    jobs = cuda_check.make_jobs([], str(tree / "nvcc"), "g++ -m64")
    assert [str(job) for job in jobs] == [
        "ops/copy/copy.cu sm_75",
        "ops/copy/copy.cu sm_80",
        "ops/copy/copy.cu sm_90",
        "ops/copy/copy_cpu.cpp native",
        "ops/copy/copy_cpu.cpp x86-64-v3",
        "ops/scan/scan.cu sm_75",
        "ops/scan/scan.cu sm_80",
        "ops/scan/scan.cu sm_90",
    ]
    assert "arch=compute_80,code=sm_80" in jobs[1].command and "all-warnings" in jobs[1].command
    assert jobs[4].command[:2] == ("g++", "-m64") and "-march=x86-64-v3" in jobs[4].command
    assert [job.source for job in cuda_check.make_jobs(["scan"], None, "g++")] == []


def test_kernels_are_compiled_as_they_are_built() -> None:
    assert set(registration._CUDA_FLAGS) <= set(cuda_check.NVCC_FLAGS)
    assert set(registration._CPU_FLAGS) <= set(cuda_check.CXX_FLAGS)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_processors_that_the_compiler_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_check, "PROCESSORS", ("native", "abacus"))
    assert cuda_check.known_processors(["g++"]) == ["native"]


def test_everything_compiles(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda_check.main(["scan", "--jobs=2", f"--json={tree / 'usage.json'}"]) == 0
    out = capsys.readouterr().out
    assert "61 / 12 / 320 / 512" in out and "3 of 3 objects compiled without a warning" in out
    assert json.loads((tree / "usage.json").read_text())[0]["registers"] == 61


def test_a_file_that_does_not_compile(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "ops" / "scan" / "broken.cu").write_text("")
    assert cuda_check.main(["scan", "--jobs=1"]) == 1
    out = capsys.readouterr().out
    assert 'identifier "x" is undefined' in out and "3 of 6 objects" in out
    assert "FAILED ops/scan/broken.cu sm_75, ops/scan/broken.cu sm_80, " in out
    assert out.count('identifier "x"') == 1 and "ptxas info" not in out


def test_spills_fail_if_asked_to(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda_check.main(["scan", "--jobs=1", "--max-spill=12"]) == 0
    assert cuda_check.main(["scan", "--jobs=1", "--max-spill=11"]) == 1
    assert "spills 12 bytes on sm_90, allowed are 11" in capsys.readouterr().out


def test_without_compilers_it_says_so(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda_check, "find_nvcc", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    monkeypatch.delenv("CXX", raising=False)
    assert cuda_check.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nvcc is not found (PATH, CUDA_HOME): the .cu files are not compiled",
        "no C++ compiler is found (PATH, CXX): the .cpp files are not compiled",
        "0 of 0 objects compiled without a warning",
    ]


def test_unknown_op_is_refused(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        cuda_check.main(["scam"])
    assert info.value.code == 2 and "there is no folder ops/scam" in capsys.readouterr().err


def test_nvcc_is_also_found_beside_cuda_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy(os.path.realpath("/bin/sh"), tmp_path / "bin" / "nvcc")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_check.find_nvcc() == str(tmp_path / "bin" / "nvcc")


WARNS = "__global__ void f(float* x) { int unused_name; x[0] = 1; }\nvoid g() { f<<<1, 1>>>(0); }\n"


@pytest.mark.skipif(cuda_check.find_nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize(
    "text", [WARNS, WARNS.replace("int unused_name; ", "")], ids=["bad", "good"]
)
def test_the_real_compiler(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ops" / "f").mkdir(parents=True)
    (tmp_path / "ops" / "f" / "f.cu").write_text(text)
    monkeypatch.setattr(cuda_check, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_check, "ARCHITECTURES", (80,))
    (job,) = cuda_check.make_jobs([], cuda_check.find_nvcc(), None)
    outcome = cuda_check.compile_one(job)
    if text == WARNS:
        assert not outcome.ok and "unused_name" in outcome.log
    else:
        (row,) = cuda_check.parse_usage(outcome.log)
        assert outcome.ok and row.architecture == 80 and 0 < row.registers < 64
