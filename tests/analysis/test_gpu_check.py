"""`make gpu-check` without a GPU: it says so; its steps run and are reported on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis import gpu_check, kernel_bench, op_check
from tests.analysis.test_kernel_bench import TINY


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gpu_check.Run:
    monkeypatch.setitem(gpu_check.SCALES, "cpu", TINY)
    return gpu_check.Run(torch.device("cpu"), ["fma"], tmp_path / "out", seconds=300)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([f"--outdir={tmp_path / 'out'}"]) == 2
    assert "gpu-check needs a GPU: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_needs_nothing_but_torch_and_numpy() -> None:
    code = """
import sys

class Blocked:
    names = {"click", "requests", "scipy", "PIL", "psutil", "imageio", "safetensors", "tqdm",
             "tensorboard", "pytest", "hypothesis", "ninja"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
import analysis.gpu_check
import analysis.cuda_check
"""
    root = Path(gpu_check.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=root)


def test_operations_are_checked_and_reported(
    run: gpu_check.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.check_ops()
    run.write()
    assert "27 of 27 comparisons passed" in capsys.readouterr().out and run.failed == []
    data = json.loads((run.outdir / "gpu-check.json").read_text())
    assert len(data["checks"]) == 27 and data["tests"] == "not run"
    text = (run.outdir / "gpu-check.md").read_text()
    assert "| fma | bf16 | ref | 9 of 9 |" in text and "no problems" in text


def test_a_wrong_op_is_a_failure(run: gpu_check.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    original = op_check.TOLERANCES[torch.float32]
    monkeypatch.setitem(op_check.TOLERANCES, torch.float32, (-1.0, *original[1:]))
    monkeypatch.setattr(op_check, "_RATIO", -1.0)
    run.check_ops()
    assert run.failed and "comparisons of ops failed" in run.failed[0]


def test_calls_without_time_are_named(run: gpu_check.Run) -> None:
    run.start -= 0.5 * run.seconds
    run.check_ops()
    assert run.checks == [] and run.bench.notes == ["correctness: 9 calls left out: no time"]


def test_a_section_that_fails_costs_only_itself(
    run: gpu_check.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_bench: kernel_bench.Bench) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(kernel_bench, "measure_layers", fail)
    monkeypatch.setattr(gpu_check, "measure_generators", lambda bench: None)
    monkeypatch.setattr(gpu_check, "measure_training", lambda bench: None)
    run.measure()
    assert run.failed == ["fail: RuntimeError: out of memory"]
    data = json.loads((run.outdir / "gpu-check.json").read_text())
    assert {row["section"] for row in data["rows"]} == {"ceilings", "fmm"}
    assert data["ceilings"]["bytes_per_second"] > 0


def test_builds_are_reported(run: gpu_check.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.ops = []
    kernels = [("fmm", "cpp"), ("fmm", "cuda"), ("fma", "cpp")]
    monkeypatch.setattr(gpu_check._dispatch, "registered", lambda: kernels)
    results = {"fmm": ("fmm", "1.0", "built"), "fma": ("fma", "2.0", "no compiler")}
    monkeypatch.setattr(gpu_check, "build_one", lambda op, impl, seconds: results[op])
    run.build()
    assert run.builds == [results["fmm"], results["fma"]]
    assert run.failed == ["fma does not build: no compiler"]


def test_a_build_in_another_process() -> None:
    op, seconds, result = gpu_check.build_one("fma", "cuda", 120)
    assert op == "fma" and float(seconds) > 0 and "KeyError" in result  # there is no such kernel
    assert "not ready after" in gpu_check.build_one("fma", "cuda", 0.01)[2]


def test_what_matters_of_a_failure() -> None:
    short = gpu_check.short_failure
    assert short(["Traceback", "x.cu(3): error: y", "ninja: stopped"]) == "x.cu(3): error: y"
    assert short(["Traceback", "  * no nvcc", "See docs"]) == "* no nvcc"
    assert short(["Traceback", "KeyError: 3"]) == "KeyError: 3" and short([]) == "no reason given"


def test_gpu_tests_run_where_pytest_is(run: gpu_check.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.run_tests()
    assert run.tests == "not run: they are for a GPU"
    run.device = torch.device("cuda")
    monkeypatch.setattr(gpu_check, "has_module", lambda name: name != "hypothesis")
    run.run_tests()
    assert run.tests == "not run: hypothesis not installed here" and run.failed == []
    monkeypatch.setattr(gpu_check, "has_module", lambda name: name != "xdist")
    monkeypatch.setattr(gpu_check, "run_pytest", lambda seconds, ops: ("1 failed", False))
    run.run_tests()
    assert run.failed == ["the tests failed: 1 failed"]


def test_pytest_is_called_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def answer(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(
            command, 1, "..F\nFAILED a.py::b\n1 failed, 2 passed\n", ""
        )

    monkeypatch.setattr(subprocess, "run", answer)
    assert gpu_check.run_pytest(30, ["fmm", "fma"]) == ("1 failed, 2 passed; FAILED a.py::b", False)
    assert commands[0][1:3] == ["-m", "pytest"] and commands[0][-2:] == ["-k", "fmm or fma"]
    assert commands[0][4:6] == ["-m", "gpu"]
    assert (
        "tests/analysis/test_timing.py" in commands[0] and "tests/test_docs.py" not in commands[0]
    )


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--steps=build,fly", "'fly' is not one of build, ops"),
        ("scam", "there is no folder ops/scam"),
    ],
)
def test_arguments(argument: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        gpu_check.main([argument, "--device=cpu"])
    assert info.value.code == 2 and sentence in capsys.readouterr().err
