"""What a training run reports while it goes: status lines, stats.jsonl, TensorBoard, progress.

All numbers pass through `torch_utils.training_stats`, so that the averages cover all processes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dnnlib.progress import progress
from dnnlib.util import format_time
from torch_utils import training_stats

_LIVE_STATS = r"Loss/[GD]/loss"


def json_line(stats: Mapping[str, Mapping[str, float]], timestamp: float) -> str:
    """One line of ``stats.jsonl``: strict JSON, null for a statistic without samples.

    Args:
        stats: Name to num, mean and std, as `training_stats.Collector.as_dict` returns.
        timestamp: Unix time in seconds.
    """
    fields: dict[str, Any] = {
        name: {key: _finite(value) for key, value in entry.items()} for name, entry in stats.items()
    }
    return json.dumps({**fields, "timestamp": timestamp}, allow_nan=False)


def _finite(value: float) -> float | None:
    # JSON has neither NaN nor infinity; readers other than Python's refuse the whole file.
    return value if math.isfinite(value) else None


def cpu_memory_gb() -> float:
    """Resident memory of this process in GiB; NaN where psutil is not installed."""
    try:
        import psutil
    except ImportError:
        return math.nan
    return psutil.Process(os.getpid()).memory_info().rss / 2**30


def peak_gpu_memory_gb(device: torch.device) -> float:
    """Most memory torch held on the GPU since the last call, in GiB; 0 without a CUDA device."""
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return peak


class PhaseTimer:
    """Milliseconds of the last execution of each phase.

    CUDA events on a GPU, because its work is only queued when Python returns; the clock elsewhere.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: dict[str, tuple[Any, Any]] = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the body of a with statement as phase ``name``."""
        start = self._mark()
        yield
        self._spans[name] = (start, self._mark())

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def report(self, names: list[str]) -> None:
        """Report ``Timing/<name>`` for all names, without a sample for phases that never ran."""
        for name in names:
            training_stats.report0(f"Timing/{name}", self._milliseconds(name))
        self._spans = {}

    def _milliseconds(self, name: str) -> list[float]:
        if name not in self._spans:
            return []
        start, end = self._spans[name]
        if self._device.type != "cuda":
            return [(end - start) * 1e3]
        end.synchronize()
        return [start.elapsed_time(end)]


class StatsLog:
    """Collects statistics and writes them: one status line and one JSON line per tick.

    Every process has one; only process 0 writes. Methods marked collective have to be called by
    all processes at the same time.

    Args:
        run_dir: Folder for ``stats.jsonl`` (emptied) and TensorBoard's event file.
        is_main: Whether this is process 0.
        device: The training device.
        total_kimg: Length of the training, for the progress display.
        phase_names: Phases to report times for.
    """

    def __init__(
        self,
        run_dir: str,
        is_main: bool,
        device: torch.device,
        total_kimg: float,
        phase_names: list[str],
    ) -> None:
        self.timer = PhaseTimer(device)
        self._is_main = is_main
        self._device = device
        self._phase_names = phase_names
        self._collector = training_stats.Collector(regex=".*")
        self._live = training_stats.Collector(regex=_LIVE_STATS)
        self._open = contextlib.ExitStack()
        self._jsonl_path = os.path.join(run_dir, "stats.jsonl")
        self._tensorboard = None
        if is_main:
            pathlib.Path(self._jsonl_path).write_text("", encoding="utf-8")
            self._tensorboard = _open_tensorboard(run_dir)
            if self._tensorboard is not None:
                self._open.callback(self._tensorboard.close)
        self._start_sec = self._tick_start_sec = self._tick_end_sec = time.time()
        self._maintenance_sec = 0.0
        self._tick_start_nimg = 0
        self._shown_nimg = 0
        self._total_nimg = math.ceil(total_kimg * 1000)
        self._bar: Any = None

    def start(self) -> None:
        """Start the clocks and, on process 0, the progress display."""
        self._start_sec = self._tick_start_sec = time.time()
        if self._is_main:
            self._bar = progress(self._total_nimg, desc="Training", unit="img")
            self._open.callback(self._bar.close)

    def step(self, cur_nimg: int, augment_p: float | None, look_at_losses: bool) -> None:
        """Move the progress display. Collective where ``look_at_losses`` is true.

        Args:
            cur_nimg: Real images shown so far.
            augment_p: ADA's p; None without augmentation.
            look_at_losses: Whether to refresh the displayed losses, which makes a GPU wait.
        """
        if look_at_losses:
            self._live.update()
        if self._bar is None:
            return
        if look_at_losses:
            values = {name[5]: self._live[name] for name in sorted(self._live.names())}
            values |= {} if augment_p is None else {"p": augment_p}
            self._bar.set_postfix(**values)
        self._bar.update(min(cur_nimg, self._total_nimg) - self._shown_nimg)
        self._shown_nimg = min(cur_nimg, self._total_nimg)

    def write(self, text: str = "") -> None:
        """Print a line on process 0 without tearing the progress display."""
        if self._is_main:
            with self.hidden():
                print(text)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the progress display away while the body of a with statement prints."""
        # Only the terminal variant of the display has something to clear.
        getattr(self._bar, "clear", lambda: None)()
        yield
        getattr(self._bar, "refresh", lambda: None)()

    def status(self, cur_tick: int, cur_nimg: int, augment_p: float | None) -> None:
        """End a tick: report its progress, timing and memory, and print the status line."""
        report = training_stats.report0
        now = time.time()
        self._tick_end_sec = now
        total_sec, tick_sec = now - self._start_sec, now - self._tick_start_sec
        tick_kimg = max(cur_nimg - self._tick_start_nimg, 1) / 1000
        fields = [
            f"tick {report('Progress/tick', cur_tick):<5d}",
            f"kimg {report('Progress/kimg', cur_nimg / 1000):<8.1f}",
            f"time {format_time(report('Timing/total_sec', total_sec)):<12s}",
            f"sec/tick {report('Timing/sec_per_tick', tick_sec):<7.1f}",
            f"sec/kimg {report('Timing/sec_per_kimg', tick_sec / tick_kimg):<7.2f}",
            f"maintenance {report('Timing/maintenance_sec', self._maintenance_sec):<6.1f}",
            f"cpumem {report('Resources/cpu_mem_gb', cpu_memory_gb()):<6.2f}",
            f"gpumem {report('Resources/peak_gpu_mem_gb', peak_gpu_memory_gb(self._device)):<6.2f}",
            f"augment {report('Progress/augment', augment_p or 0.0):.3f}",
        ]
        report("Timing/total_hours", total_sec / 3600)
        report("Timing/total_days", total_sec / 86400)
        self.write(" ".join(fields))

    def metrics(self, values: Mapping[str, float], cur_nimg: int) -> None:
        """Give results of metrics to TensorBoard, as ``Metrics/<key>``."""
        self._add_scalars({f"Metrics/{key}": value for key, value in values.items()}, cur_nimg)

    def flush_tick(self, cur_nimg: int) -> None:
        """Average over all processes, write the JSON line and TensorBoard's. Collective.

        Everything between `status` and here counts as maintenance (snapshots, metrics).
        """
        self.timer.report(self._phase_names)
        self._collector.update()
        if self._is_main:
            with open(self._jsonl_path, "a", encoding="utf-8") as file:
                file.write(json_line(self._collector.as_dict(), time.time()) + "\n")
        stats = self._collector.as_dict()
        self._add_scalars({name: value.mean for name, value in stats.items()}, cur_nimg)
        self._tick_start_nimg = cur_nimg
        self._tick_start_sec = time.time()
        self._maintenance_sec = self._tick_start_sec - self._tick_end_sec

    def _add_scalars(self, values: Mapping[str, float], cur_nimg: int) -> None:
        if self._tensorboard is None:
            return
        step, walltime = int(cur_nimg / 1e3), time.time() - self._start_sec
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, global_step=step, walltime=walltime)
        self._tensorboard.flush()

    def close(self) -> None:
        """Close files and the progress display."""
        self._open.close()
        self._bar = self._tensorboard = None


def _open_tensorboard(run_dir: str) -> Any:
    try:
        from torch.utils import tensorboard
    except ImportError as error:
        print("Skipping tfevents export:", error)
        return None
    return tensorboard.SummaryWriter(run_dir)
