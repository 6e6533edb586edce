"""Several processes: start, ranks, barriers, equal weights, summed gradients.

There is no DistributedDataParallel here. Networks are made equal once, by `broadcast_module`
(parameters and buffers: fixed random features are buffers, and ranks that disagree on them train on
wrong gradients without an error), and `all_reduce_gradients` averages the gradients of a phase as
one flat vector. So regularisers may differentiate twice and touch any subset of the parameters.

With one process every function here works without a process group.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dnnlib import UserError

# Gradients beyond this are as good as infinite (StyleGAN2).
_MAX_GRADIENT = 1e5
_ERROR_FILE = "user_error.txt"


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a launcher such as torchrun tells each process through environment variables."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int


def environment(variables: Mapping[str, str] | None = None) -> Environment | None:
    """Detect a launcher; None = this process was not started by one.

    Args:
        variables: None = `os.environ`.
    """
    variables = os.environ if variables is None else variables
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(variables):
        return None
    world_size = int(variables["WORLD_SIZE"])
    return Environment(
        rank=int(variables["RANK"]),
        local_rank=int(variables.get("LOCAL_RANK", 0)),
        world_size=world_size,
        local_world_size=int(variables.get("LOCAL_WORLD_SIZE", world_size)),
    )


def init(
    rank: int,
    world_size: int,
    init_method: str | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Join the process group: nccl for CUDA devices, gloo otherwise. Nothing to do for one process.

    Args:
        rank: Of this process.
        world_size: Number of processes.
        init_method: For example `file:///tmp/x/init`; None = `env://`, as torchrun wants it.
        device: The device of this process, with an index if it is a GPU.
    """
    device = torch.device(device)
    if device.type == "cuda":
        # Without this every rank would open a context on GPU 0 as well.
        torch.cuda.set_device(device)
    if world_size == 1:
        return
    use_nccl = device.type == "cuda" and os.name != "nt"
    torch.distributed.init_process_group(
        backend="nccl" if use_nccl else "gloo",
        init_method=init_method or "env://",
        rank=rank,
        world_size=world_size,
        # nccl would have to guess the device of a barrier.
        device_id=device if use_nccl and device.index is not None else None,
    )


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if _initialized():
        torch.distributed.destroy_process_group()


def rank() -> int:
    """Return the number of this process; 0 if it is the only one."""
    return torch.distributed.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return _group_size()


def is_main() -> bool:
    """Tell whether this is rank 0, the one that prints and writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() == 1:
        return
    if torch.distributed.get_backend() == "nccl":
        torch.distributed.barrier(device_ids=[torch.cuda.current_device()])
    else:
        torch.distributed.barrier()


def print0(*args: Any, **kwargs: Any) -> None:
    """Print, in rank 0 only."""
    if is_main():
        print(*args, **kwargs)


def rank_device(device: torch.device | str, local_rank: int) -> torch.device:
    """Return the device of one process of a machine: `cuda` becomes `cuda:N`, others stay."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", local_rank)
    return device


def broadcast_module(module: nn.Module, src: int = 0) -> None:
    """Make all parameters and buffers equal to those of rank `src`, in place and bit by bit."""
    if world_size() == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        broadcast_tensor(tensor, src)


def broadcast_tensor(tensor: torch.Tensor, src: int = 0) -> None:
    """Make a tensor of any dtype and layout equal to that of rank `src`, in place."""
    if world_size() == 1 or tensor.numel() == 0:
        return
    with torch.no_grad():
        # As bytes: backends differ in the dtypes they know, and in whether strides are allowed.
        data = tensor.detach().contiguous()
        torch.distributed.broadcast(data.reshape(-1).view(torch.uint8), src=src)
        if data.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(data)


def all_reduce_gradients(params: Iterable[torch.Tensor], world_size: int | None = None) -> None:
    """Average the gradients over all processes and remove what is not finite.

    NaN becomes 0 and infinities +-1e5 (StyleGAN2). Parameters without a gradient are left out;
    which ones these are must be the same in every process.

    Args:
        params: Parameters; their `.grad` is replaced or changed in place.
        world_size: Number of processes; None = all of the process group, 1 = no exchange.
    """
    world_size = _group_size() if world_size is None else world_size
    with_grad = [p for p in params if p.grad is not None and p.numel() > 0]
    if world_size == 1:
        for param in with_grad:
            _nan_to_num_(param.grad)
        return
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for param in with_grad:
        groups.setdefault((param.grad.dtype, param.grad.device), []).append(param)
    for group in groups.values():
        flat = torch.cat([param.grad.reshape(-1) for param in group])
        torch.distributed.all_reduce(flat)
        _nan_to_num_(flat.div_(world_size))
        for param, grad in zip(group, flat.split([param.numel() for param in group])):
            param.grad = grad.reshape(param.shape)


def _nan_to_num_(tensor: torch.Tensor) -> None:
    tensor.nan_to_num_(nan=0.0, posinf=_MAX_GRADIENT, neginf=-_MAX_GRADIENT)


def launch(
    fn: Callable[..., None],
    num_processes: int,
    args: Sequence[Any] = (),
    device: torch.device | str = "cpu",
) -> None:
    """Run `fn(rank, *args)` in `num_processes` processes of this machine and wait for them.

    One process means this one. Several are spawned, joined to a group (see `init`) before `fn` and
    taken out of it afterwards; if one fails the others are ended.

    Args:
        fn: For several processes it must be importable, so no lambda and no local function.
        num_processes: At least 1.
        args: Picklable if there are several processes.
        device: Decides the backend; `cuda` gives process i the GPU i.

    Raises:
        UserError: One of the processes raised it, or there is not a GPU for each of them.
        torch.multiprocessing.ProcessRaisedException: One raised something else.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    device = torch.device(device)
    if num_processes == 1:
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)
        fn(0, *args)
        return
    if device.index is not None:
        raise UserError(f"'{device}' is one device, but {num_processes} processes were asked for")
    if device.type == "cuda" and num_processes > torch.cuda.device_count():
        raise UserError(
            f"{num_processes} GPUs were asked for, but this machine has "
            f"{torch.cuda.device_count()}; ask for fewer, or use --device=cpu"
        )
    with tempfile.TemporaryDirectory() as temp_dir:
        worker_args = (fn, num_processes, temp_dir, str(device), tuple(args))
        try:
            with _quiet_spawning():
                torch.multiprocessing.spawn(_worker, worker_args, nprocs=num_processes)
        except torch.multiprocessing.ProcessRaisedException:
            message = pathlib.Path(temp_dir, _ERROR_FILE)
            if message.exists():
                raise UserError(message.read_text(encoding="utf-8")) from None
            raise


@contextlib.contextmanager
def _quiet_spawning() -> Iterator[None]:
    """Without torch's line about each process that it ends because another one failed."""
    log = logging.getLogger("torch.multiprocessing.spawn")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _worker(
    rank: int,
    fn: Callable[..., None],
    num_processes: int,
    temp_dir: str,
    device_name: str,
    args: tuple[Any, ...],
) -> None:
    """Body of a spawned process."""
    device = rank_device(device_name, rank)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Each process would start a thread per core.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_processes))
    init_file = pathlib.Path(temp_dir, "process_group").absolute()
    try:
        init(rank, num_processes, init_file.as_uri(), device)
        fn(rank, *args)
    except UserError as error:
        pathlib.Path(temp_dir, _ERROR_FILE).write_text(str(error), encoding="utf-8")
        raise
    finally:
        sys.stdout.flush()
        shutdown()


def _group_size() -> int:
    return torch.distributed.get_world_size() if _initialized() else 1


def _initialized() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
