"""Metrics during training: evaluated at network snapshots, never a reason to end the training."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dnnlib import UserError
from metrics import exchange, metric_main
from metrics.detectors import DetectorUnavailable
from metrics.progress import ProgressMonitor
from torch_utils import distributed
from training.interrupt import leave_stopping_to_the_trainer

_MAX_REASON = 400  # characters; torch's own messages can fill a screen


class MetricStopped(Exception):
    """The user asked the training to stop while a metric was computed."""


class MetricRuns:
    """The metrics of one training run.

    Every process has one, and all of them have to call `evaluate` at the same time.

    Args:
        names: Of registered metrics.
        run_dir: Where ``metric-<name>.jsonl`` are appended to.
        training_set_kwargs: ``class_name`` and arguments of the set of real images.
        data_loader_kwargs: The run's; only ``num_workers`` is used.
        num_gpus, rank: Number of processes and place among them.
        device: Of this process.
        seed: Of everything the metrics draw, so that all snapshots are asked the same question.
        detectors: Detector name -> file, as given with ``--detector``.

    Attributes:
        names: Those that are evaluated; without the ones whose detector could not be had.

    Raises:
        UserError: A name is unknown.
    """

    def __init__(
        self,
        names: Sequence[str],
        run_dir: str,
        training_set_kwargs: Mapping[str, Any],
        data_loader_kwargs: Mapping[str, Any],
        num_gpus: int,
        rank: int,
        device: torch.device,
        seed: int = 0,
        detectors: Mapping[str, str] | None = None,
    ) -> None:
        for name in names:
            if not metric_main.is_valid_metric(name):
                valid = ", ".join(metric_main.list_valid_metrics())
                raise UserError(f"metrics={list(names)}: {name!r} is not one of {valid}.")
        self.names = list(names)
        self._run_dir = run_dir
        self._device = device
        self._options = {
            "dataset_kwargs": dict(training_set_kwargs),
            "data_loader_kwargs": _loader_kwargs(data_loader_kwargs, device),
            "num_gpus": num_gpus,
            "rank": rank,
            "device": device,
            "seed": seed,
            "detectors": detectors,
        }

    def evaluate(
        self,
        G: nn.Module,
        snapshot_pkl: str,
        say: Callable[[str], None] = print,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> dict[str, float]:
        """Evaluate all metrics and append the results to the run's files. Collective.

        A metric that fails is reported in one line with its reason. If its detector cannot be had
        that is said once, and the metric is not tried again. The random state is left as it was.

        Args:
            G: The generator, equal in all processes.
            snapshot_pkl: File that it was written to.
            say: Prints a line on process 0 only.
            stop_requested: Asked while a metric is computed, on process 0; True ends it.

        Returns:
            Result key -> value of every metric that succeeded, the same in all processes.
        """
        values: dict[str, float] = {}
        missing: dict[str, list[str]] = {}
        if self.names:
            say("Evaluating metrics...")
        for name in list(self.names):
            with _random_state_kept(self._device):
                results, failure = self._evaluate_one(name, G, snapshot_pkl, stop_requested)
            kind, reason = failure or ("", "")
            if kind == "stopped":
                say(f"Asked to stop: {name} is not finished.")
                break
            if kind == "failed":
                say(f"{name} failed this time, the training goes on: {reason}")
            elif kind == "no detector":
                self.names.remove(name)
                missing.setdefault(reason, []).append(name)
            else:
                values.update(results)
        for reason, names in missing.items():
            say(f"Training goes on without {', '.join(names)}: {reason}")
        return values

    def _evaluate_one(
        self, name: str, G: nn.Module, snapshot_pkl: str, stop_requested: Callable[[], bool]
    ) -> tuple[dict[str, float], tuple[str, str] | None]:
        """Results of one metric, and what went wrong in any process: its kind and its reason."""
        results: dict[str, float] = {}
        failure = None
        rank = self._options["rank"]
        progress = _WatchedProgress(ProgressMonitor(verbose=rank == 0), stop_requested)
        try:
            with exchange.together(self._options["num_gpus"]):
                result = metric_main.calc_metric(name, G=G, progress=progress, **self._options)
                if rank == 0:
                    metric_main.report_metric(result, self._run_dir, snapshot_pkl)
            results = dict(result.results)
        except Exception as error:  # whatever it is, it must not cost the user the training
            stopped = isinstance(error, MetricStopped) or stop_requested()
            failure = ("stopped", "") if stopped else _kind_and_reason(error)
        if failure is not None:
            self._free_memory()
        return results, _first_of_all_processes(failure)

    def _free_memory(self) -> None:
        """Give back what a computation that ended in the middle still held."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class _WatchedProgress:
    """A `ProgressMonitor` that ends the computation it watches when the user asks for that."""

    def __init__(self, inner: ProgressMonitor, stop_requested: Callable[[], bool]) -> None:
        self._inner = inner
        self._stop_requested = stop_requested
        self.verbose = inner.verbose

    def update(self, cur_items: int) -> None:
        if self._stop_requested():
            raise MetricStopped
        self._inner.update(cur_items)

    def sub(self, *args: Any, **kwargs: Any) -> _WatchedProgress:
        return _WatchedProgress(self._inner.sub(*args, **kwargs), self._stop_requested)


def _kind_and_reason(error: Exception) -> tuple[str, str]:
    """Classify an error, and describe it in one line."""
    if isinstance(error, exchange.OtherProcessFailed):
        return "elsewhere", ""
    text = " ".join(str(error).split())
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        text = text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."
    return ("no detector" if isinstance(error, DetectorUnavailable) else "failed"), text


def _first_of_all_processes(failure: tuple[str, str] | None) -> tuple[str, str] | None:
    """The failure that all processes report: of the first that has one of its own. Collective."""
    if distributed.world_size() == 1:
        return failure
    failures: list[tuple[str, str] | None] = [None] * distributed.world_size()
    torch.distributed.all_gather_object(failures, failure)
    known = [f for f in failures if f is not None]
    return min(
        known,
        key=lambda f: ("stopped", "no detector", "failed", "elsewhere").index(f[0]),
        default=None,
    )


def _loader_kwargs(run_kwargs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """For the DataLoader of the real images: as many processes as the training has."""
    workers = run_kwargs.get("num_workers", 0)
    result = {
        "num_workers": workers,
        "pin_memory": device.type == "cuda",
        "worker_init_fn": leave_stopping_to_the_trainer,
    }
    # torch refuses to prefetch without worker processes.
    return {**result, "prefetch_factor": 2} if workers > 0 else result


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Give the training the random numbers that it would have had without the body."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
