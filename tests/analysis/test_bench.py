"""The benchmark measures what it says: functions in turns, real training steps, real pictures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pytest
import torch
from click.testing import CliRunner

from analysis import bench, kernel_bench
from tests.analysis.test_kernel_bench import TINY
from torch_utils import precision

CPU = torch.device("cpu")


def test_measure_takes_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    bench.measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, CPU)
    assert calls == ["a", "b"] + ["a", "b"] * 2


def test_measure_returns_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    # Start and end of three calls that take 1, 100 and 3 seconds.
    clock = iter([0.0, 1.0, 10.0, 110.0, 200.0, 203.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert bench.measure({"step": lambda: None}, 3, CPU) == {"step": 3.0}


def test_rates_are_relative_to_the_first() -> None:
    text = bench.rates({"stylegan2": 2.0, "inr-gan": 0.5}, images=10)
    assert [line.split() for line in text.splitlines()] == [
        ["stylegan2", "5.00", "(1.00x)"],
        ["inr-gan", "20.00", "(4.00x)"],
    ]


def test_a_training_cycle_changes_both_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STEPS_PER_CYCLE", 1)
    cycle = bench.training_cycle("inr-gan-bil", CPU)
    before = [p.clone() for network in cycle() for p in network.parameters()]
    after = [p for network in cycle() for p in network.parameters()]
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert all(torch.isfinite(p).all() for p in after)


@pytest.mark.parametrize("preset", bench.GENERATORS)
def test_generation_draws_a_batch(monkeypatch: pytest.MonkeyPatch, preset: str) -> None:
    monkeypatch.setattr(bench, "_GENERATION_SIZE", 16)
    with torch.inference_mode():
        assert bench.generation(preset, CPU)().shape == (4, 3, 16, 16)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_the_command(low: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def in_own_process(section: Callable[..., str], *args: object) -> str:
        called.append(section)
        return f"[{section.__name__} {args[1:]}]"

    monkeypatch.setattr(bench, "in_own_process", in_own_process)
    monkeypatch.setattr(precision, "fastest_dtype", lambda device: (low, "because"))
    result = CliRunner().invoke(bench.main, ["--quick", "--device=cpu"])
    assert result.exit_code == 0, result.output
    for text in ("[compare_training (0.0, 1)]", "[divide_step (0.0, 1)]"):
        assert text in result.output
    assert "[compare_generation (1,)]" in result.output
    assert "[against_plain_order ('fp32', 1)]" in result.output
    low_too = "[against_plain_order ('bf16', 1)]" in result.output
    assert low_too == (low == torch.bfloat16)
    # A process of its own finds its function by name.
    assert all(getattr(bench, section.__name__) is section for section in called)
    assert ("(no lower precision: because)" in result.output) == (low == torch.float32)


def test_kernels_against_the_plain_order(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = dataclasses.replace(TINY, precision="fp32")
    monkeypatch.setattr(kernel_bench, "CPU", tiny)
    monkeypatch.setattr(bench, "_GENERATION_SIZE", 32)
    lines = bench.against_plain_order(CPU, "bf16", 1).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("variant", "-" * 26, "kernels", "plain PyTorch, no compiler", "plain order"),
    ] * 2
    assert "img/s" in lines[2] and "1.00x" in lines[4] and "MiB" in lines[5]


@pytest.fixture
def small_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STEPS_PER_CYCLE", 1)
    monkeypatch.setattr(bench, "_STEP_SHAPE", (3, 16, 16))
    monkeypatch.setattr(bench, "_STEP_BATCH", 4)
    monkeypatch.setattr(bench, "GENERATORS", ("stylegan2", "inr-gan"))


def test_training_with_and_without_kernels(small_trainings: None) -> None:
    header, _line, *rows = bench.compare_training(CPU, 0.0, 1).splitlines()
    assert header.endswith("kernels to plain")
    assert [row.split()[0] for row in rows] == ["stylegan2", "inr-gan"]


def test_parts_of_a_step(small_trainings: None) -> None:
    text = bench.divide_step(CPU, 0.0, 1)
    for line in ("step ", "Dreg, every 16 steps ", "G forward "):
        assert f"\n{line}" in text
    assert "kernels to plain" in text and text.count(" images/s; G takes ") == 2


def test_generators_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_GENERATION_SIZE", 16)
    lines = bench.compare_generation(CPU, 1).splitlines()
    assert [line.split()[0] for line in lines] == list(bench.GENERATORS)
