"""What the processes that compute one metric tell each other. With one process nothing happens.

The functions take `num_gpus` and `rank` as given by `MetricOptions`; with more than one process
the process group must exist (`torch_utils.distributed.init`). All processes must call each of them
in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from dnnlib import UserError
from torch_utils import distributed


class OtherProcessFailed(RuntimeError):
    """Another process left the common computation with an error; it knows which."""


@contextlib.contextmanager
def together(num_gpus: int) -> Iterator[None]:
    """Make an error of one process an error of all, so that none waits for ever.

    Inside the block processes may only talk by way of this module: every exchange begins with the
    question whether all are still there, which a process that fails answers for the last time.

    Raises:
        OtherProcessFailed: In the processes that did not fail, at their next exchange or at the
            end of the block.
    """
    try:
        yield
    except OtherProcessFailed:
        raise
    except BaseException:
        _check_in(num_gpus, failed=True)
        raise
    _check_in(num_gpus)


def _check_in(num_gpus: int, failed: bool = False) -> None:
    """Tell the others that this process is there; outside of `together` it always is."""
    if num_gpus == 1:
        return
    flag = torch.tensor(float(failed), device=_exchange_device())
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    if flag.item() and not failed:
        raise OtherProcessFailed("another process failed")


def broadcast_object(value: Any, num_gpus: int) -> Any:
    """Return rank 0's value, which must be small and picklable."""
    if num_gpus == 1:
        return value
    _check_in(num_gpus)
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=_exchange_device())
    return box[0]


def from_leader(function: Callable[[], Any], num_gpus: int, rank: int) -> Any:
    """Call a function in rank 0 and return its small, picklable result everywhere.

    An error in rank 0 is an error in all, so that none waits for ever.

    Raises:
        UserError: Raised by `function`; by the same words in the other processes.
        RuntimeError: In the other processes, if `function` raised anything else.
    """
    with leader_first(num_gpus, rank):
        value = function() if rank == 0 else None
    return broadcast_object(value, num_gpus)


@contextlib.contextmanager
def leader_first(num_gpus: int, rank: int) -> Iterator[None]:
    """Run the block in rank 0, then in the others, unless it failed in rank 0.

    Raises:
        UserError: In the other processes, if rank 0 raised one.
        RuntimeError: In the other processes, if rank 0 raised anything else.
    """
    if rank != 0:
        kind, message = broadcast_object(None, num_gpus)
        if kind == "user":
            raise UserError(message)
        if kind == "other":
            raise RuntimeError(f"rank 0 failed: {message}")
        yield
        return
    outcome = ("ok", "")
    try:
        yield
    except UserError as error:
        outcome = ("user", str(error))
        raise
    except BaseException as error:
        outcome = ("other", f"{type(error).__name__}: {error}")
        raise
    finally:
        broadcast_object(outcome, num_gpus)


def interleave(x: torch.Tensor, num_gpus: int) -> torch.Tensor:
    """Join the batches of all processes by item: rank r's row i becomes row i * num_gpus + r.

    Args:
        x: [N, ...]; the same shape and dtype in all processes.

    Returns:
        [N * num_gpus, ...] on the device of `x`, the same in all processes.
    """
    if num_gpus == 1:
        return x
    _check_in(num_gpus)
    # gloo reads the memory of the CPU.
    local = x.detach().contiguous().to(_exchange_device())
    parts = [torch.empty_like(local) for _ in range(num_gpus)]
    torch.distributed.all_gather(parts, local)
    return torch.stack(parts, dim=1).flatten(0, 1).to(x.device)


def broadcast_arrays(arrays: dict[str, np.ndarray] | None, num_gpus: int) -> dict[str, np.ndarray]:
    """Return rank 0's arrays in all processes; they may be large.

    Args:
        arrays: Anything in the ranks other than 0.
    """
    if num_gpus == 1:
        assert arrays is not None
        return arrays
    leader = distributed.rank() == 0
    head = None
    if leader and arrays is not None:
        head = [(name, array.shape, array.dtype.str) for name, array in arrays.items()]
    head = broadcast_object(head, num_gpus)
    result = {}
    for name, shape, dtype in head:
        if leader and arrays is not None:
            array = np.ascontiguousarray(arrays[name])
        else:
            array = np.empty(shape, dtype)
        data = torch.from_numpy(array.reshape(-1).view(np.uint8)).to(_exchange_device())
        distributed.broadcast_tensor(data)
        result[name] = data.cpu().numpy().view(dtype).reshape(shape)
    return result


def _exchange_device() -> torch.device:
    """Where the process group reads and writes."""
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
