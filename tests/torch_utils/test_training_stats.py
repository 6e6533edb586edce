"""torch_utils.training_stats in one process; several processes: test_distributed.py."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from torch_utils import training_stats
from torch_utils.training_stats import Collector, report, report0


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    training_stats.reset()
    yield
    training_stats.reset()


def test_moments_of_any_kind_of_value() -> None:
    collector = Collector()
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.float16, requires_grad=True)
    assert report("tensor", x) is x
    assert report("number", 5) == 5
    report("list", [1, 2])
    report("list", np.float32(6))
    report("mask", torch.tensor([True, False]))
    collector.update()
    assert collector.names() == ["tensor", "number", "list", "mask"]
    stats = collector.as_dict()
    assert stats.tensor == {"num": 4, "mean": 3.0, "std": pytest.approx(math.sqrt(3.5))}
    assert stats.number == {"num": 1, "mean": 5.0, "std": 0.0}
    assert stats.list == {"num": 3, "mean": 3.0, "std": pytest.approx(math.sqrt(14 / 3))}
    assert stats.mask.mean == collector["mask"] == 0.5


def test_no_samples() -> None:
    collector = Collector()
    assert report("empty", []) == []
    collector.update()
    assert collector.num("empty") == 0
    assert math.isnan(collector.mean("empty")) and math.isnan(collector.std("empty"))
    assert collector.names() == ["empty"]


def test_not_finite() -> None:
    collector = Collector()
    report("x", [1.0, math.nan])
    report("y", [1.0, math.inf])
    collector.update()
    assert math.isnan(collector["x"]) and math.isnan(collector.std("x"))
    assert collector["y"] == math.inf and math.isnan(collector.std("y"))


def test_a_value_that_is_not_finite_is_soon_forgotten() -> None:
    # ADA listens to such a mean: it would stand still for the rest of the run.
    often, seldom = Collector(), Collector()
    for value, mean in ((math.nan, math.nan), (math.inf, math.inf), (3.0, 3.0), (5.0, 5.0)):
        report("x", value)
        often.update()
        assert often["x"] == pytest.approx(mean, nan_ok=True)
    seldom.update()
    assert math.isnan(seldom["x"]) and seldom.num("x") == 4
    report("x", 7.0)
    seldom.update()
    assert seldom["x"] == 7.0 and seldom.std("x") == 0.0


def test_only_what_came_since_the_previous_update() -> None:
    keep, drop = Collector(), Collector(keep_previous=False)
    for values, mean in (([1, 2, 3], 2), ([10], 10)):
        report("x", values)
        keep.update()
        drop.update()
        assert keep["x"] == drop["x"] == mean and keep.num("x") == len(values)
    keep.update()
    drop.update()
    assert keep["x"] == 10 and math.isnan(drop["x"])


def test_collectors_are_independent_and_start_at_zero() -> None:
    report("Loss/a", 100)
    early = Collector(r"Loss/.*")
    report("Loss/a", 1)
    report("Progress/b", 2)
    early.update()
    late = Collector()
    report("Loss/a", 3)
    early.update()
    late.update()
    assert early["Loss/a"] == late["Loss/a"] == 3
    assert early.names() == ["Loss/a"] and late.names() == ["Loss/a", "Progress/b"]
    assert late.num("Progress/b") == 0
    with pytest.raises(KeyError, match="Progress/b"):
        early.mean("Progress/b")


def test_large_nearly_equal_values() -> None:
    collector = Collector()
    report("x", torch.full([1000], 12345.678))
    collector.update()
    assert collector.std("x") < 1e-2
    assert collector["x"] == pytest.approx(12345.678, rel=1e-6)


def test_counts_beyond_float32() -> None:
    collector = Collector()
    report("x", torch.ones(1))
    training_stats._counters["x"][torch.device("cpu")][0] += 2.0**24
    report("x", torch.ones(1))
    collector.update()
    assert collector.num("x") == 2**24 + 2


def test_init_multiprocessing() -> None:
    training_stats.init_multiprocessing(rank=1, sync_device=None)
    report0("x", 5)
    report("x", 7)
    collector = Collector()
    report0("x", 5)
    report("x", 7)
    collector.update()
    assert collector.num("x") == 1 and collector["x"] == 7
    training_stats.init_multiprocessing(rank=1, sync_device=None)
    with pytest.raises(RuntimeError, match="before"):
        training_stats.init_multiprocessing(rank=0, sync_device="cpu")
    training_stats.reset()
    training_stats.init_multiprocessing(rank=0, sync_device=None)
    assert Collector().names() == []
