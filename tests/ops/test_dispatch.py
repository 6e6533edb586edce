"""`ops._dispatch`: what is chosen, what is said, what is raised."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops import _dispatch

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.ones(1)


class _CudaTensor:
    """What `choose` looks at, for machines without a GPU."""

    device = torch.device("cuda")


CUDA = _CudaTensor()


@pytest.fixture(autouse=True)
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    _dispatch.registered()  # imports all ops: what they announce now is not lost with the dict
    monkeypatch.setattr(_dispatch, "_kernels", {})
    monkeypatch.setattr(_dispatch, "_said", set())


@pytest.mark.parametrize("impl", ["auto", "cuda", "ref"])
@pytest.mark.parametrize("tensor", [CPU, CUDA], ids=["cpu", "cuda"])
def test_without_kernels_everything_is_plain(impl: str, tensor: object) -> None:
    name, reasons = _dispatch.choose("blend", (tensor, None), impl)
    assert name == "ref" and len(reasons) == 1


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="blend: impl must be one of auto, .* got 'gpu'"):
        _dispatch.choose("blend", (CPU,), "gpu")
    with pytest.raises(ValueError, match="got 'auto'"):
        _dispatch.register_kernel("blend", "auto", object)


def test_cpp_is_never_replaced_silently() -> None:
    with pytest.raises(RuntimeError, match="no cpp kernel"):
        _dispatch.choose("blend", (CPU,), "cpp")
    _dispatch.register_kernel("blend", "cpp", object)
    with pytest.raises(RuntimeError, match="needs cpu tensors, got cuda"):
        _dispatch.choose("blend", (CUDA,), "cpp")
    assert _dispatch.choose("blend", (CPU,), "cpp")[0] == "cpp"


def test_the_device_decides() -> None:
    for impl in ("cpp", "cuda"):
        _dispatch.register_kernel("blend", impl, lambda impl=impl: f"{impl} module")
    for impl in ("auto", "cuda"):
        assert _dispatch.choose("blend", (CPU,), impl)[0] == "cpp"
        assert _dispatch.choose("blend", (CUDA, None), impl)[0] == "cuda"
    assert _dispatch.choose("blend", (CUDA,), "ref")[0] == "ref"
    assert _dispatch.kernel_module("blend", "cuda") == "cuda module"
    name, reasons = _dispatch.choose("blend", (CPU, CUDA))
    assert name == "ref" and "needs cuda tensors, got cpu, cuda" in reasons[0]


def test_a_missing_compiler_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def explode() -> object:
        raise AssertionError("must not be built")

    _dispatch.register_kernel("blend", "cuda", explode, missing=lambda: ["nvcc was not found"])
    with caplog.at_level(logging.WARNING, logger="ops"):
        for _ in range(3):
            assert _dispatch.choose("blend", (CUDA,)) == ("ref", ["nvcc was not found"])
    said = [record.getMessage() for record in caplog.records]
    assert said == ["plain PyTorch instead of compiled cuda kernels: nvcc was not found"]


def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    _dispatch.register_kernel("blend", "cpp", object)
    monkeypatch.setenv("GAN_OPS", "plain")
    assert _dispatch.choose("blend", (CPU,)) == ("ref", ["GAN_OPS=plain is set"])
    assert _dispatch.choose("blend", (CPU,), "cpp")[0] == "cpp"
    monkeypatch.setenv("GAN_OPS", "fast")
    with pytest.raises(ValueError, match="GAN_OPS must be 'plain' or 'auto', got 'fast'"):
        _dispatch.choose("blend", (CPU,))


def test_unsupported_tensors_are_listed() -> None:
    _dispatch.register_kernel(
        "blend", "cpp", object, unsupported=lambda tensors: [f"dtype {tensors[0].dtype}"]
    )
    assert _dispatch.choose("blend", (CPU,)) == ("ref", ["dtype torch.float32"])


def test_a_failed_build_raises_each_time_but_is_tried_once() -> None:
    attempts = []

    def build() -> object:
        attempts.append(1)
        raise OSError("ninja failed")

    _dispatch.register_kernel("blend", "cuda", build)
    for _ in range(2):
        with pytest.raises(OSError, match="ninja failed"):
            _dispatch.choose("blend", (CUDA,))
    assert len(attempts) == 1
    assert _dispatch.choose("blend", (CUDA,), "ref")[0] == "ref"


def test_a_failed_build_on_a_cpu_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def build() -> object:
        raise OSError("ninja failed")

    _dispatch.register_kernel("blend", "cpp", build)
    with caplog.at_level(logging.WARNING, logger="ops"):
        for _ in range(3):
            assert _dispatch.choose("blend", (CPU,)) == ("ref", ["its build failed"])
    said = [record.getMessage() for record in caplog.records]
    assert said == ["blend: plain PyTorch instead of the cpp kernel: ninja failed"]
    with pytest.raises(OSError, match="ninja failed"):
        _dispatch.choose("blend", (CPU,), "cpp")


def test_a_kernel_with_wrong_numbers_is_not_used() -> None:
    asked = []

    def wrong_numbers(device: torch.device) -> str | None:
        asked.append(device.type)
        assert _dispatch.choose("blend", (CUDA,))[0] == "cuda"  # the proof calls the op itself
        return "it says 3 for 2" if len(asked) > 1 else None

    _dispatch.register_kernel("blend", "cuda", object, wrong_numbers=wrong_numbers)
    for _ in range(3):
        assert _dispatch.choose("blend", (CUDA,))[0] == "cuda"
    assert asked == ["cuda"]
    _dispatch.register_kernel("blend", "cuda", object, wrong_numbers=wrong_numbers)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="it says 3 for 2; GAN_OPS=plain runs"):
            _dispatch.choose("blend", (CUDA,))
    assert asked == ["cuda", "cuda"]


def test_registered_kernels_are_listed() -> None:
    for op, impl in (("blend", "cuda"), ("blend", "cpp"), ("add", "cpp")):
        _dispatch.register_kernel(op, impl, object)
    found = [kernel for kernel in _dispatch.registered() if kernel[0] in ("blend", "add")]
    assert found == [("add", "cpp"), ("blend", "cpp"), ("blend", "cuda")]


def test_status_lists_every_op() -> None:
    _dispatch.register_kernel("bias_act", "cuda", object, missing=lambda: ["nvcc was not found"])
    _dispatch.register_kernel("upfirdn2d", "cuda", object)
    _dispatch.register_kernel("upfirdn2d", "cpp", object, sources=("a.cpp", "b.cpp"))
    report = _dispatch.status()
    assert {"bias_act", "conv2d_resample", "fma", "grid_sample", "upfirdn2d"} <= set(report)
    assert report["bias_act"]["cuda"] == "ref (nvcc was not found)"
    assert report["upfirdn2d"]["cuda"] == "cuda (compiled on first use)"
    assert report["upfirdn2d"]["cpu"] == "cpp (compiled on first use from a.cpp, b.cpp)"
    assert report["fma"]["cpu"].startswith("ref (")


_FIRST_USE = """
import sys
import torch
from ops.fmm import fmm
from ops import _dispatch, registry

assert "torch._dynamo" not in sys.modules, "ops import the compiler, which takes a second or more"

def composed(weight, a, b):
    return fmm(weight, a, b, "demod")

args = torch.randn(3, 4), torch.randn(2, 3, 2), torch.randn(2, 2, 4)
compiled = torch.compile(composed, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(*args), composed(*args))
print(_dispatch.choose("fmm", args)[0])
"""


def test_a_compiler_of_whole_graphs_may_be_the_first_user() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _FIRST_USE], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split()[-1] in ("cpp", "ref")


class _Asked:
    """Counts how often it is asked."""

    count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


def _remember(asked: _Asked, question: tuple, *tensors: torch.Tensor | None) -> int:
    return _dispatch.remembered("blend", question, tensors, asked)


def test_answers_are_remembered_by_what_they_may_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_answers", {})
    asked = _Asked()
    x = torch.ones(2, 3)
    assert _remember(asked, ("act",), x, None) == _remember(asked, ("act",), x + 1, None) == 1
    assert _remember(asked, ("other",), x, None) == 2
    others = [x.T, x.double(), x.clone().requires_grad_(), x.to("meta"), None]
    assert [_remember(asked, ("act",), other, None) for other in others] == [3, 4, 5, 6, 7]
    assert _remember(asked, ("act",), None, x) == 8
    with torch.no_grad():
        assert _remember(asked, ("act",), x, None) == 9
    monkeypatch.setenv("GAN_OPS", "plain")
    assert _remember(asked, ("act",), x, None) == 10
    monkeypatch.delenv("GAN_OPS")
    _dispatch.register_kernel("blend", "cpp", object)
    assert _remember(asked, ("act",), x, None) == 11
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert _remember(asked, ("act",), x, None) == 12
    finally:
        torch.set_num_threads(threads)
    assert _remember(asked, ("act",), x, None) == 11


def test_errors_are_not_remembered_and_answers_are_not_hoarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_dispatch, "_answers", {})
    monkeypatch.setattr(_dispatch, "_MOST_ANSWERS", 2)
    errors = iter([KeyError("first"), KeyError("second")])

    def fail() -> None:
        raise next(errors)

    for word in ("first", "second"):
        with pytest.raises(KeyError, match=word):
            _dispatch.remembered("blend", (), (CPU,), fail)
    asked = _Asked()
    assert [_remember(asked, (i,)) for i in (0, 1, 2, 2)] == [1, 2, 3, 3]
    assert len(_dispatch._answers) <= 2
