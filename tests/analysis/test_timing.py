"""Times: functions take turns, medians per call, contexts outside the clock, peaks of memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
import torch

from analysis import timing

CPU = torch.device("cpu")


def test_functions_take_turns_and_calls_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    calls: list[str] = []

    def spend(name: str, seconds: float) -> None:
        calls.append(name)
        now[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    functions = {"fast": lambda: spend("fast", 0.001), "slow": lambda: spend("slow", 0.5)}
    result = timing.interleaved(functions, CPU, samples=2, sample_seconds=0.004)
    assert calls == ["fast"] * 3 + ["slow"] * 2 + (["fast"] * 4 + ["slow"]) * 2
    assert result["fast"].calls == 4 and result["fast"].median == pytest.approx(0.001)
    assert result["slow"].calls == 1 and result["slow"].best == pytest.approx(0.5)


def test_the_median_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1, 1, 7, 1, 3])
    monkeypatch.setattr(timing, "_sample", lambda *args: next(seconds))
    result = timing.interleaved({"f": lambda: None}, CPU, samples=4)["f"]
    assert (result.median, result.best, result.worst) == (2, 1, 7)


def test_contexts_are_entered_outside_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        log.append("enter")
        yield
        log.append("leave")

    monkeypatch.setattr(time, "perf_counter", lambda: float(log.append("clock") or len(log)))
    functions = {"f": lambda: log.append("call")}
    timing.interleaved(functions, CPU, samples=1, contexts={"f": context})
    assert log[-5:] == ["enter", "clock", "call", "clock", "leave"]


def test_without_cuda_there_are_no_graphs() -> None:
    result = timing.interleaved({"f": lambda: None}, CPU, samples=1, sample_seconds=0, graphs=True)
    assert result["f"].how == "calls" and "only CUDA" in result["f"].note


def test_peak_memory_of_a_call() -> None:
    small = timing.peak_memory(lambda: torch.ones(2**18), CPU)
    large = timing.peak_memory(lambda: torch.ones(2**25), CPU)
    if small is None or large is None:
        pytest.skip("this system does not tell the peak")
    assert small < 2**26 < 0.9 * 2**27 < large < 1.5 * 2**27


def test_an_exception_in_one_line() -> None:
    assert timing.first_line(ValueError("a\nb")) == "ValueError: a"
    assert timing.first_line(KeyError()) == "KeyError:"


@pytest.mark.gpu
def test_a_graph_computes_the_same() -> None:
    device = torch.device("cuda")
    x, y = torch.randn(64, 64, device=device), torch.empty(64, 64, device=device)
    replay, note = timing.captured(lambda: torch.mm(x, x, out=y), device)
    assert note == ""
    x.copy_(torch.eye(64))
    replay()
    assert torch.equal(y, x)
