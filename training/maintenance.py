"""What happens between steps: deciding when a tick or the run ends, and everything done then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import torch

from torch_utils import distributed
from training.interrupt import StopRequest
from training.metric_runs import MetricRuns
from training.setup import Augmentation
from training.snapshot import RunSnapshots
from training.stats_log import StatsLog

# Steps between questions that make the GPU wait or need all processes.
_QUESTION_INTERVAL = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Lengths in thousands of real images, and ticks between snapshots (None = never)."""

    total_kimg: float
    kimg_per_tick: float
    image_snapshot_ticks: int | None
    network_snapshot_ticks: int | None


class Maintenance:
    """Context manager around the steps of a run; `after_step` is called after each of them.

    The first tick ends with the first step, so that every run starts with a status line and
    snapshots; later ones take ``kimg_per_tick``. While it is entered, Ctrl-C and SIGTERM end the
    run in order: with a last tick and its snapshots.

    Args:
        schedule: When ticks, snapshots and the run end.
        log: Statistics and status lines.
        files: Image grids and network snapshots.
        augment: Its p is displayed.
        metrics: Evaluated at every network snapshot, except the one that a request to stop leaves.
        device: Of this process.
        abort_fn: Asked every tick; True, in all processes alike, ends the run.
        progress_fn: Called with (cur_kimg, total_kimg) at the start and every tick.
    """

    def __init__(
        self,
        schedule: Schedule,
        log: StatsLog,
        files: RunSnapshots,
        augment: Augmentation,
        metrics: MetricRuns,
        device: torch.device,
        abort_fn: Callable[[], bool] | None = None,
        progress_fn: Callable[[float, float], None] | None = None,
    ) -> None:
        self.done = False
        self._schedule = schedule
        self._log = log
        self._files = files
        self._augment = augment
        self._metrics = metrics
        self._device = device
        self._abort_fn = abort_fn
        self._progress_fn = progress_fn
        self._stop = StopRequest()
        self._cur_tick = 0
        self._tick_start_nimg = 0

    def __enter__(self) -> Maintenance:
        self._stop.__enter__()
        self._log.start()
        self._report_progress(0)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.__exit__(exc_type, exc_value, traceback)
        self._log.close()

    def after_step(self, cur_nimg: int, batch_idx: int) -> None:
        """Display progress; end the tick or the run if it is time. Collective.

        Args:
            cur_nimg: Real images shown so far.
            batch_idx: Steps made so far.
        """
        ask = batch_idx % _QUESTION_INTERVAL == 0
        self._log.step(cur_nimg, self._augment.p, look_at_losses=ask)
        stopped = (ask or distributed.world_size() == 1) and self._stop.agreed(self._device)
        self.done = stopped or cur_nimg >= self._schedule.total_kimg * 1000
        if stopped:
            self._log.write("\nStopping on request, writing the last snapshots...")
        tick_nimg = cur_nimg - self._tick_start_nimg
        if self.done or self._cur_tick == 0 or tick_nimg >= self._schedule.kimg_per_tick * 1000:
            self._end_tick(cur_nimg, stopped)

    def _end_tick(self, cur_nimg: int, stopped: bool) -> None:
        self._log.status(self._cur_tick, cur_nimg, self._augment.p)
        if not self.done and self._abort_fn is not None and self._abort_fn():
            self.done = True
            self._log.write("\nAborting...")
        if self._is_due(self._schedule.image_snapshot_ticks):
            self._files.save_images(f"fakes{cur_nimg // 1000:06d}")
        if self._is_due(self._schedule.network_snapshot_ticks):
            path = self._files.save_networks(cur_nimg)
            if stopped:
                self._log.write(f"The network so far is in {path}")
            else:
                self._evaluate_metrics(path, cur_nimg)
        self._log.flush_tick(cur_nimg)
        self._report_progress(cur_nimg)
        self._cur_tick += 1
        self._tick_start_nimg = cur_nimg

    def _evaluate_metrics(self, snapshot_pkl: str, cur_nimg: int) -> None:
        with self._log.hidden():
            values = self._metrics.evaluate(
                self._files.generator, snapshot_pkl, self._log.write, lambda: self._stop.is_set
            )
        self._log.metrics(values, cur_nimg)

    def _is_due(self, ticks: int | None) -> bool:
        return ticks is not None and (self.done or self._cur_tick % ticks == 0)

    def _report_progress(self, cur_nimg: int) -> None:
        if self._progress_fn is not None:
            self._progress_fn(cur_nimg / 1000, self._schedule.total_kimg)
