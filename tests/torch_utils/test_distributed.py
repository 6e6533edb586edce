"""torch_utils.distributed: one process without a group, two with gloo, and what builds on it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from dnnlib import UserError
from torch_utils import distributed, misc, training_stats


def test_single_process(capsys: pytest.CaptureFixture[str]) -> None:
    distributed.init(rank=0, world_size=1)
    assert not torch.distributed.is_initialized()
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.is_main()
    distributed.barrier()
    distributed.print0("hello")
    assert capsys.readouterr().out == "hello\n"
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    distributed.broadcast_module(layer)
    assert torch.equal(before, layer.weight)
    distributed.shutdown()


def test_launch_in_this_process() -> None:
    seen = []
    distributed.launch(lambda rank, word: seen.append((rank, word, os.getpid())), 1, ["x"])
    assert seen == [(0, "x", os.getpid())]
    with pytest.raises(ValueError, match="got 0"):
        distributed.launch(print, 0)


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(UserError, match="4096 GPUs were asked for"):
        distributed.launch(print, 4096, device="cuda")
    with pytest.raises(UserError, match="'cuda:1' is one device"):
        distributed.launch(print, 2, device="cuda:1")


def test_gradients_of_one_process() -> None:
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad = torch.tensor([float("nan"), 2.0])
    b.grad = torch.tensor([float("inf"), -float("inf")])
    distributed.all_reduce_gradients([a, b, c])
    assert a.grad.tolist() == [0, 2] and b.grad.tolist() == [1e5, -1e5] and c.grad is None


def test_environment() -> None:
    assert distributed.environment({}) is None
    assert distributed.environment({"RANK": "1", "WORLD_SIZE": "4"}) is None
    found = distributed.environment(
        {
            "RANK": "5",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "8",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "host",
            "MASTER_PORT": "29500",
        }
    )
    assert found == distributed.Environment(5, 1, 8, 4)


def test_rank_device() -> None:
    assert distributed.rank_device("cuda", 3) == torch.device("cuda:3")
    assert distributed.rank_device("cuda:1", 0) == torch.device("cuda:1")
    assert distributed.rank_device("cpu", 3) == torch.device("cpu")


def make_module(rank: int) -> nn.Module:
    """A module that differs between the ranks in every kind of tensor."""
    torch.manual_seed(rank)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last), nn.Linear(4, 4).half()
    )
    module.register_buffer("random_basis", torch.randn(5, 6).t())
    module.register_buffer("scalar", torch.tensor(float("nan") if rank == 0 else 1.0))
    module.register_buffer("flags", torch.tensor([rank == 0, True]))
    module.register_buffer("count", torch.tensor(10**10 + rank))
    module.register_buffer("nothing", torch.zeros(0))
    return module


def check_weights(rank: int) -> None:
    module = make_module(rank)
    strides = [t.stride() for t in misc.params_and_buffers(module)]
    try:
        misc.check_ddp_consistency(module)
    except AssertionError as error:
        assert "Sequential.0.weight differs" in str(error)
    else:
        raise RuntimeError("the difference was not seen")
    misc.check_ddp_consistency(module, ignore_regex=r"Sequential\..*")
    distributed.broadcast_module(module)
    misc.check_ddp_consistency(module)
    reference = make_module(0)
    for tensor, expected in zip(
        misc.params_and_buffers(module), misc.params_and_buffers(reference)
    ):
        assert torch.equal(tensor.nan_to_num(7), expected.nan_to_num(7))
    assert strides == [t.stride() for t in misc.params_and_buffers(module)]


def check_gradients(rank: int) -> None:
    params = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros([]))]
    params += [nn.Parameter(torch.zeros(4, dtype=torch.float64)), nn.Parameter(torch.zeros(2))]
    params[0].grad = torch.arange(6.0).reshape(2, 3).t().contiguous().t() + rank
    params[1].grad = torch.tensor(float("nan") if rank == 1 else 1.0)
    params[2].grad = torch.full([4], 10.0**300 * (rank + 1), dtype=torch.float64)
    distributed.all_reduce_gradients(params)
    assert torch.equal(params[0].grad, torch.arange(6.0).reshape(2, 3) + 0.5)
    assert params[1].grad == 0 and params[3].grad is None
    assert torch.equal(params[2].grad, torch.full([4], 1.5e300, dtype=torch.float64))


def collect(rank: int) -> dict[str, dict[str, float]]:
    training_stats.init_multiprocessing(rank, "cpu")
    collector = training_stats.Collector()
    training_stats.report("both", [1.0, 2.0, 3.0][: rank + 2])
    training_stats.report0("first", rank + 5)
    training_stats.report("second", [4.0] if rank == 1 else [])
    collector.update()
    return collector.as_dict()


def worker(rank: int, folder: str) -> None:
    assert (distributed.rank(), distributed.world_size()) == (rank, 2)
    assert distributed.is_main() == (rank == 0)
    check_weights(rank)
    check_gradients(rank)
    stats = collect(rank)
    Path(folder, f"{rank}.json").write_text(json.dumps(stats))
    distributed.barrier()
    assert Path(folder, f"{1 - rank}.json").exists()


def failing_worker(rank: int) -> None:
    if rank == 1:
        raise UserError("'blue' is not a number")
    # Rank 0 waits for rank 1, as it would in training; the launcher has to end it.
    distributed.barrier()


def test_two_processes(tmp_path: Path) -> None:
    distributed.launch(worker, 2, [str(tmp_path)])
    stats = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert stats[0] == stats[1]
    assert stats[0]["both"] == {"num": 5, "mean": 9 / 5, "std": pytest.approx(0.56**0.5)}
    assert stats[0]["first"] == {"num": 1, "mean": 5.0, "std": 0.0}
    assert stats[0]["second"]["num"] == 1
    assert not torch.distributed.is_initialized()


def test_user_error_of_a_worker_arrives_as_such(caplog: pytest.LogCaptureFixture) -> None:
    """It is one sentence: torch says nothing about the processes that it ends."""
    with pytest.raises(UserError, match="^'blue' is not a number$"):
        distributed.launch(failing_worker, 2)
    assert not caplog.records
