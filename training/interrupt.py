"""Ctrl-C and termination requests that end a training in order instead of in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType

import torch

from torch_utils import distributed

# Sent twice by a terminal plus a parent that forwards it; only a later one means "at once".
_SAME_REQUEST_SEC = 2.0


def leave_stopping_to_the_trainer(worker_id: int) -> None:
    """`worker_init_fn` of a DataLoader: keep requests to stop away, which the trainer answers.

    A terminal or a batch system signals the whole process group. A worker that dies of it would
    end the training with an error, before it has written its last snapshot. The worker's signal
    handlers stay DataLoader's, which needs SIGTERM to end workers that outlive their use.

    Args:
        worker_id: Not used.
    """
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()


class StopRequest:
    """Context manager: remembers SIGINT and SIGTERM instead of dying from them.

    The first signal only sets a flag, which the training loop looks at between two steps. A signal
    that comes later than two seconds after it acts as usual, so that a user is never locked in.
    Outside the main thread, where Python allows no handlers, nothing is caught.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._first: float | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
        elif now - self._first > _SAME_REQUEST_SEC:
            self.__exit__(None, None, None)
            signal.raise_signal(number)

    @property
    def is_set(self) -> bool:
        """Whether this process was asked to stop."""
        return self._first is not None

    def agreed(self, device: torch.device) -> bool:
        """Whether any process was asked to stop. Collective: all processes have to call it."""
        if distributed.world_size() == 1:
            return self.is_set
        flag = torch.tensor(float(self.is_set), device=device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())
