"""Metrics in two processes: the numbers of one process, and errors that end both."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dnnlib
from dnnlib import UserError
from metrics import exchange, metric_main
from tests.metrics import tiny_world
from tests.metrics.tiny_world import SMALL_METRICS
from torch_utils import distributed

CHANNELS = (1, 3)


def options(folder: str, channels: int, detectors: dict[str, str]) -> dict[str, Any]:
    """A conditional network and its set of an odd number of pictures."""
    path = Path(folder, f"set{channels}.zip")
    kwargs = {
        "class_name": "training.dataset.ImageFolderDataset",
        "path": str(path),
        "use_labels": True,
    }
    if not path.exists():
        tiny_world.write_pictures(path, channels, labels=True)
    G = tiny_world.make_generator(channels, tiny_world.NUM_CLASSES)
    return {"G": G, "dataset_kwargs": kwargs, "detectors": detectors, "device": "cpu"}


def exchanging(rank: int) -> None:
    """Each kind of exchange."""
    rows = torch.tensor([[0.0], [10.0]], dtype=torch.float16) + rank
    assert exchange.interleave(rows, 2).tolist() == [[0], [1], [10], [11]]
    assert exchange.broadcast_object({"a": rank}, 2) == {"a": 0}
    arrays = {"x": np.arange(6.0).reshape(2, 3), "n": np.array(4), "none": np.zeros([0, 5])}
    found = exchange.broadcast_arrays(arrays if rank == 0 else None, 2)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


def failing(rank: int, folder: str, detectors: dict[str, str]) -> list[str]:
    """The errors that a process gets, of which not all are its own."""
    kwargs = {**options(folder, 3, detectors), "num_gpus": 2, "rank": rank, "cache": False}
    seen = []

    def attempt(**changes: Any) -> None:
        with pytest.raises(UserError) as caught:
            metric_main.calc_metric("small_fid", **{**kwargs, **changes})
        seen.append(str(caught.value))

    # Only process 0 misses its file, and only process 1 has a broken network.
    attempt(detectors=detectors if rank == 1 else {"inception-2015-12-05": "/not/there"})
    broken = tiny_world.make_generator(3, tiny_world.NUM_CLASSES)
    broken.synthesis.b4.const.fill_(math.nan if rank == 1 else 0)
    attempt(G=broken)
    with pytest.raises(RuntimeError if rank == 1 else ZeroDivisionError) as caught:
        exchange.from_leader(lambda: 1 // 0, 2, rank)
    return [*seen, str(caught.value)]


def calculating(rank: int, folder: str, channels: int, detectors: dict[str, str]) -> list[Any]:
    """Every metric twice, the second time with cached statistics."""
    kwargs = options(folder, channels, detectors)
    rounds = []
    for _round in range(2):
        found = {}
        for metric in SMALL_METRICS:
            result = metric_main.calc_metric(metric, **kwargs, num_gpus=2, rank=rank, batch_size=4)
            found.update(result.results)
            assert result.num_gpus == 2
        rounds.append(found)
    return rounds


def body(rank: int, folder: str, detectors: dict[str, str]) -> None:
    """Everything that two processes do; starting them takes longer."""
    dnnlib.util.set_cache_dir(str(Path(folder, "cache of two")))
    exchanging(rank)
    found = {
        "errors": failing(rank, folder, detectors),
        "rounds": {c: calculating(rank, folder, c, detectors) for c in CHANNELS},
    }
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, detectors: dict[str, str]
) -> tuple[str, list[dict[str, Any]]]:
    """The folder of the sets, and what each process has found."""
    folder = tmp_path_factory.mktemp("two")
    for channels in CHANNELS:
        options(str(folder), channels, detectors)  # writes the set
    distributed.launch(body, 2, [str(folder), detectors])
    return str(folder), [json.loads((folder / f"rank{r}.json").read_text()) for r in range(2)]


@pytest.mark.parametrize("channels", CHANNELS)
def test_same_numbers_as_one_process(
    channels: int, found: tuple[str, list[dict[str, Any]]], detectors: dict[str, str]
) -> None:
    folder, of_ranks = found
    kwargs = options(folder, channels, detectors)
    expected: dict[str, float] = {}
    for metric in SMALL_METRICS:
        expected.update(metric_main.calc_metric(metric, **kwargs).results)
    for of_rank in of_ranks:
        for results in of_rank["rounds"][str(channels)]:
            assert results == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_errors_reach_every_process(found: tuple[str, list[dict[str, Any]]]) -> None:
    first, second = (of_rank["errors"] for of_rank in found[1])
    assert first[:2] == second[:2]
    assert "/not/there: there is no such file" in first[0]
    assert "hold values that are not finite" in first[1]
    assert second[2] == "rank 0 failed: ZeroDivisionError: integer division or modulo by zero"
