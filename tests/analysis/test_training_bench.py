"""Training both ways: what is timed, and how times become shares of a step."""

from __future__ import annotations

import gc
import os
from types import SimpleNamespace

import pytest
import torch

from analysis import bench, training_bench
from analysis.timing import Timing
from analysis.training_bench import (
    KERNELS,
    PLAIN,
    as_in_training,
    both_ways,
    rates_table,
    step_table,
)
from ops.conv2d import gradfix

CPU = torch.device("cpu")


def times_of(**seconds: tuple[float, float]) -> dict[str, dict[str, Timing]]:
    def timing(value: float) -> Timing:
        return Timing(value, value, value, 1, "calls")

    return {
        name: {KERNELS: timing(fast), PLAIN: timing(plain)}
        for name, (fast, plain) in seconds.items()
    }


def test_switches_are_those_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradfix, "enabled", False)
    with pytest.raises(KeyError), as_in_training():
        assert gradfix.enabled and gc.get_freeze_count() > 0
        raise KeyError
    assert not gradfix.enabled and gc.get_freeze_count() == 0


def test_the_ways_take_turns_with_and_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAN_OPS", raising=False)
    calls: list[tuple[str, str | None]] = []
    functions = {
        name: lambda name=name: calls.append((name, os.environ.get("GAN_OPS"))) for name in "ab"
    }
    times = both_ways(functions, CPU, 2)
    turn = [("a", None), ("a", "plain"), ("b", None), ("b", "plain")]
    assert calls == turn * 3  # one of them is not timed
    assert {name: set(ways) for name, ways in times.items()} == {
        name: {KERNELS, PLAIN} for name in "ab"
    }


def test_rates() -> None:
    table = rates_table(times_of(one=(2.0, 3.0), other=(1.0, 4.0)), images=10).splitlines()
    assert table[2].split() == ["one", "5.00", "1.00x", "3.33", "1.50x"]
    assert table[3].split() == ["other", "10.00", "2.00x", "2.50", "4.00x"]


def test_shares_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {
        "Gmain": (1.0, 2.0),
        "Dmain": (2.0, 5.0),
        "Dreg, every 4 steps": (4.0, 4.0),
        "G forward and backward": (0.6, 2.4),
        "G forward": (0.2, 0.8),
    }
    monkeypatch.setattr(
        training_bench, "both_ways", lambda functions, device, turns: times_of(**seconds)
    )
    phases = [
        SimpleNamespace(name=name, interval=interval)
        for name, interval in (("Gmain", 1), ("Dmain", 1), ("Dreg", 4))
    ]
    training = training_bench.Training(None, None, None, phases, None, torch.zeros(8), None)
    lines = step_table(training, CPU, 1).splitlines()
    assert lines[2].split() == ["step", "4000.0", "100", "%", "8000.0", "100", "%", "2.00x"]
    assert lines[5].split()[-7:] == ["4000.0", "25", "%", "4000.0", "12", "%", "1.00x"]
    assert lines[6].split()[-7:] == ["600.0", "15", "%", "2400.0", "30", "%", "4.00x"]
    assert lines[8:] == [
        "kernels: 2.00 images/s; G takes 20 %, D and the rest 80 %",
        "plain PyTorch, no compiler: 1.00 images/s; G takes 40 %, D and the rest 60 %",
    ]


def test_passes_of_the_generator_leave_the_training_as_it_is() -> None:
    training = bench.make_training("inr-gan", CPU)
    before = [p.clone() for p in training.G.parameters()]
    training.generator_trained()
    training.generator_read()
    for old, new in zip(before, training.G.parameters(), strict=True):
        assert torch.equal(old, new) and new.grad is None and not new.requires_grad


def test_regularisation_comes_in_its_interval() -> None:
    training = bench.make_training("inr-gan", CPU)
    ran: list[str] = []
    training.run = lambda phase: ran.append(phase.name)
    for _ in range(17):
        training.step()
    assert ran.count("Gmain") == ran.count("Dmain") == 17 and ran.count("Dreg") == 2
