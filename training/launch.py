"""Starts the training processes and passes requests to stop on to them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from dnnlib.util import Logger
from torch_utils import custom_ops, distributed, training_stats
from training.inputs import choose_device
from training.training_loop import training_loop


def launch_training(kwargs: dict[str, Any]) -> None:
    """Train in this process, or in ``num_gpus`` new ones, and return when the training has ended.

    Args:
        kwargs: Keyword arguments of `training_loop` (`TrainConfig.to_dict`).

    Raises:
        UserError: The device is not there, or training met something the user has to change.
    """
    num_gpus = kwargs["num_gpus"]
    device = choose_device(kwargs.get("device", "auto"), num_gpus)
    with _forward_stop_signals() if num_gpus > 1 else contextlib.nullcontext():
        distributed.launch(train_process, num_gpus, (kwargs,), device)


def train_process(rank: int, kwargs: dict[str, Any]) -> None:
    """One training process: log file, statistics, then the loop.

    Args:
        rank: Of this process; the process group exists already.
        kwargs: Keyword arguments of `training_loop`.
    """
    log_name = os.path.join(kwargs["run_dir"], "log.txt")
    with Logger(file_name=log_name, file_mode="a", should_flush=True):
        device = distributed.rank_device(
            choose_device(kwargs.get("device", "auto"), kwargs["num_gpus"]), rank
        )
        sync_device = device if kwargs["num_gpus"] > 1 else None
        training_stats.reset()
        training_stats.init_multiprocessing(rank=rank, sync_device=sync_device)
        if rank != 0:
            custom_ops.verbosity = "none"
        training_loop(rank=rank, **kwargs)


@contextlib.contextmanager
def _forward_stop_signals() -> Iterator[None]:
    """While the children work, hand Ctrl-C and SIGTERM to them; they end the training in order."""

    def forward(number: int, frame: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
