"""torch_utils.precision: what --dtype names, and what is the fastest where."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dnnlib import UserError
from torch_utils import precision
from torch_utils.precision import DTYPES, dtype_name, fastest_dtype, resolve_dtype

CPU, GPU, MPS = (torch.device(name) for name in ("cpu", "cuda:1", "mps"))
X86 = "processor\t: 0\nvendor_id\t: X\nflags\t\t: fpu sse4_2 avx2 {}\nbugs\t\t: spectre_v1\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\nCPU part\t: 0xd40\n\n"


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    """The answer about the CPU is asked for in every test, and not kept for others."""
    precision.cpu_bfloat16.cache_clear()
    yield
    precision.cpu_bfloat16.cache_clear()


@pytest.fixture(params=[None, "amx_bf16"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """A CPU without and with instructions for bfloat16."""
    monkeypatch.setattr(precision, "cpu_bfloat16", lambda: request.param)
    return request.param


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """Pretend that all GPUs are of one compute capability."""

    def pretend(*capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Some GPU")

    return pretend


def test_a_precision_that_is_meant_is_not_talked_about(capsys, gpu, monkeypatch) -> None:
    monkeypatch.setattr(precision, "cpu_bfloat16", lambda: "avx512_bf16")
    gpu(8, 0)
    for device in (CPU, GPU, MPS):
        assert resolve_dtype(None, device) is None
        assert resolve_dtype("fp32", device) == torch.float32
        assert resolve_dtype("bf16", device) == torch.bfloat16
    assert resolve_dtype("fp16", GPU) == resolve_dtype("fp16", MPS) == torch.float16
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["fp8", "float32", "", "FP16"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown precision '{name}'; use fp32, bf16, fp16"):
        resolve_dtype(name, CPU)


def test_auto_on_a_cpu(instructions: str | None, capsys) -> None:
    expected = torch.float32 if instructions is None else torch.bfloat16
    assert resolve_dtype("auto", CPU) == expected
    out, err = capsys.readouterr()
    why = "has no instructions for bfloat16" if instructions is None else f"has {instructions}"
    assert out == ""
    assert err == f"Precision: {dtype_name(expected)} (--dtype=auto; the CPU {why})\n"


def test_float16_on_a_cpu_becomes_float32_and_says_so(capsys) -> None:
    assert resolve_dtype("fp16", CPU) == torch.float32
    assert capsys.readouterr().err == (
        "Warning: --dtype=fp16 is not for CPUs; this is computed in fp32.\n"
    )


def test_bfloat16_without_instructions_is_slow_and_says_so(capsys, gpu, monkeypatch) -> None:
    monkeypatch.setattr(precision, "cpu_bfloat16", lambda: None)
    gpu(7, 5)
    for device, name, better in ((CPU, "the CPU", "fp32"), (GPU, "Some GPU", "fp16")):
        assert resolve_dtype("bf16", device) == torch.bfloat16
        err = capsys.readouterr().err
        assert err.startswith(f"Warning: --dtype=bf16: {name} has no instructions for bfloat16;")
        assert f"--dtype={better} is" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 1), torch.float32), ((7, 0), torch.float16), ((8, 0), torch.float16)]
    + [((9, 0), torch.float16), ((12, 0), torch.float16)],
)
def test_auto_on_gpus(gpu, capsys, capability: tuple[int, int], expected: torch.dtype) -> None:
    gpu(*capability)
    assert resolve_dtype("auto", GPU) == expected
    err = capsys.readouterr().err
    assert err.startswith(f"Precision: {dtype_name(expected)} (--dtype=auto; Some GPU")
    assert fastest_dtype(MPS) == (torch.float16, "Apple's GPU")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (X86.format("avx512f avx512_bf16 amx_bf16 amx_tile"), "amx_bf16"),
        (X86.format("avx512f avx512_bf16"), "avx512_bf16"),
        (X86.format("avx512f avx512_fp16 amx_tile"), None),
        (X86.replace("spectre_v1", "bf16").format("avx2"), None),
        (ARM.format("asimdhp bf16 i8mm"), "bf16"),
        (ARM.format("asimdhp svebf16"), None),
        ("hart: 0\nisa: rv64imafdc\n", None),
    ],
)
def test_linux_is_asked_where_torch_does_not_know(
    text: str, found: str | None, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    assert precision.cpu_bfloat16() == found


def test_a_system_that_does_not_tell_has_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "missing")
    assert precision.cpu_bfloat16() is None
    assert fastest_dtype(CPU)[0] == torch.float32


def test_torch_is_asked_first(monkeypatch) -> None:
    capabilities = {"architecture": "arm64", "sve_max_length": 256, "bf16": True, "sve": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.cpu_bfloat16() == "bf16"
    precision.cpu_bfloat16.cache_clear()
    capabilities["bf16"] = False
    assert precision.cpu_bfloat16() is None


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch does not tell")
def test_both_ways_agree_about_this_machine(monkeypatch) -> None:
    of_torch = precision.cpu_bfloat16()
    precision.cpu_bfloat16.cache_clear()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert precision.cpu_bfloat16() == of_torch


def test_names() -> None:
    assert [dtype_name(dtype) for dtype in DTYPES.values()] == list(DTYPES)
    assert dtype_name(torch.float64) == "float64"
