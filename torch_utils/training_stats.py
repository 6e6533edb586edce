"""Statistics of a training run: reported anywhere, summed up without waiting for the device.

`report("Loss/G/loss", loss)` adds [count, sum, sum of squares] of the values to a counter on the
values' own device. A `Collector` fetches the counters of all processes in one exchange and answers
with mean and standard deviation over everything reported since its previous update.

Sums are float64. MPS has no float64, so values on such a device are counted on the CPU.
"""

from __future__ import annotations

import math
import re
import weakref
from typing import TypeVar

import numpy as np
import torch

import dnnlib

_Value = TypeVar("_Value")
_NUM_MOMENTS = 3  # count, sum, sum of squares

_rank = 0
_sync_device: torch.device | None = None  # None = there is only one process
_sync_called = False
# What was reported in this process since the last exchange: name -> device -> [_NUM_MOMENTS].
_counters: dict[str, dict[torch.device, torch.Tensor]] = {}
# Each is handed what an exchange fetches. (No running totals: one NaN would stay in them for good.)
_collectors: weakref.WeakSet[Collector] = weakref.WeakSet()


def init_multiprocessing(rank: int, sync_device: torch.device | str | None) -> None:
    """Say how the processes exchange their counters. To be called before the first update.

    Args:
        rank: Of this process.
        sync_device: Where the process group can reduce: the GPU for nccl, the CPU for gloo;
            None = this is the only process.

    Raises:
        RuntimeError: Counters were already exchanged under other settings.
    """
    global _rank, _sync_device
    device = None if sync_device is None else torch.device(sync_device)
    if device is not None and device.type == "mps":
        device = torch.device("cpu")
    if _sync_called and (rank, device) != (_rank, _sync_device):
        raise RuntimeError("init_multiprocessing() must come before the first Collector.update()")
    _rank = rank
    _sync_device = device


def reset() -> None:
    """Forget everything, collectors too, as in a fresh process: between runs in one process."""
    global _rank, _sync_device, _sync_called
    _rank, _sync_device, _sync_called = 0, None, False
    _counters.clear()
    _collectors.clear()


def report(name: str, value: _Value) -> _Value:
    """Add values to a statistic.

    Every process must report the same names, in the same order of first appearance; the values
    and how many there are may differ. An empty list only makes the name known.

    Args:
        name: `/` groups names in TensorBoard.
        value: A number, tensor, array or (nested) list of numbers. Tensors stay on their device
            and are not waited for.

    Returns:
        `value` itself.
    """
    counters = _counters.setdefault(name, {})
    elements = torch.as_tensor(value).detach()
    if elements.numel() == 0:
        return value
    if elements.device.type == "mps":
        elements = elements.cpu()
    # Squares in float64 too: in float32 the variance of large, nearly equal values is noise.
    elements = elements.flatten().to(torch.float64)
    moments = torch.stack(
        [torch.full_like(elements[0], elements.numel()), elements.sum(), elements.square().sum()]
    )
    if moments.device in counters:
        counters[moments.device].add_(moments)
    else:
        counters[moments.device] = moments
    return value


def report0(name: str, value: _Value) -> _Value:
    """Like `report`, but only the values of rank 0 count; all ranks must call it."""
    report(name, value if _rank == 0 else [])
    return value


class Collector:
    """Statistics over what was reported between the last two updates.

    Several collectors do not disturb each other.

    Args:
        regex: Names to collect; the whole name must match.
        keep_previous: If nothing new was reported for a name, keep showing its previous values
            instead of none.
    """

    def __init__(self, regex: str = ".*", keep_previous: bool = True) -> None:
        self._regex = re.compile(regex)
        self._keep_previous = keep_previous
        # Fetched since the latest update; shown since then. Both: name -> [_NUM_MOMENTS], CPU.
        self._fetched: dict[str, torch.Tensor] = {}
        self._moments: dict[str, torch.Tensor] = {}
        # What was reported before this collector existed is not its business.
        self.update()
        _collectors.add(self)

    def names(self) -> list[str]:
        """List the collected names in the order of their first report."""
        return [name for name in _counters if self._regex.fullmatch(name)]

    def update(self) -> None:
        """Move on: fetch what was reported since the previous call, by any process.

        With several processes all of them must call this at the same point.
        """
        if not self._keep_previous:
            self._moments.clear()
        _fetch(self.names())
        self._moments.update((n, moments) for n, moments in self._fetched.items() if moments[0] > 0)
        self._fetched.clear()

    def num(self, name: str) -> int:
        """Return how many values were reported."""
        return int(self._shown(name)[0])

    def mean(self, name: str) -> float:
        """Return the mean; NaN without values."""
        num, total, _squares = self._shown(name).tolist()
        return total / num if num > 0 else math.nan

    def std(self, name: str) -> float:
        """Return the population standard deviation; NaN without values, 0 for one."""
        num, total, squares = self._shown(name).tolist()
        if num == 0 or not math.isfinite(total):
            return math.nan
        if num == 1:
            return 0.0
        mean = total / num
        return float(np.sqrt(max(squares / num - mean**2, 0.0)))

    def as_dict(self) -> dnnlib.EasyDict:
        """Return EasyDict(name -> EasyDict(num, mean, std)) of all collected names."""
        stats = dnnlib.EasyDict()
        for name in self.names():
            stats[name] = dnnlib.EasyDict(
                num=self.num(name), mean=self.mean(name), std=self.std(name)
            )
        return stats

    def __getitem__(self, name: str) -> float:
        """`collector[name]` is `collector.mean(name)`."""
        return self.mean(name)

    def _take(self, name: str, moments: torch.Tensor) -> None:
        if self._regex.fullmatch(name):
            self._fetched[name] = moments + self._fetched.get(name, 0)

    def _shown(self, name: str) -> torch.Tensor:
        if not self._regex.fullmatch(name):
            raise KeyError(f"{name!r} is not collected by {self._regex.pattern!r}")
        return self._moments.get(name, torch.zeros(_NUM_MOMENTS, dtype=torch.float64))


def _fetch(names: list[str]) -> None:
    """Move the counters of all processes to all collectors; one all-reduce for all names."""
    global _sync_called
    if len(names) == 0:
        return
    _sync_called = True

    device = _sync_device if _sync_device is not None else torch.device("cpu")
    deltas = torch.zeros([len(names), _NUM_MOMENTS], dtype=torch.float64, device=device)
    for row, name in zip(deltas, names):
        for counter in _counters[name].values():
            row.add_(counter.to(device))
        _counters[name].clear()
    if _sync_device is not None:
        torch.distributed.all_reduce(deltas)

    for name, delta in zip(names, deltas.cpu()):
        for collector in _collectors:
            collector._take(name, delta)
