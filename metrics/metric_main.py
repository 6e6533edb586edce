"""The metrics by name: compute one (`calc_metric`), report a result (`report_metric`), add one
(`register_metric`).

Names, functions and results are those of StyleGAN2-ADA; every result says in `provenance` what it
depends on. `fid5k` and `kid5k` are cheap relatives for use during training: 5,000 generated images
instead of 50,000, so their numbers compare among themselves only.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

import dnnlib
from dnnlib import UserError
from metrics import (
    exchange,
    frechet_inception_distance,
    inception_score,
    kernel_inception_distance,
    perceptual_path_length,
    precision_recall,
    provenance,
)
from metrics.names import METRIC_NAMES
from metrics.options import MetricOptions

MetricFunction = Callable[[MetricOptions], dict[str, float]]

_MAX_REAL = 50000  # of the names without "_full"
_metrics: dict[str, MetricFunction] = {}


def register_metric(fn: MetricFunction) -> MetricFunction:
    """Add a metric under the name of its function; usable as a decorator.

    The function takes `MetricOptions` and returns {key: float}; in ranks other than 0 the values
    do not count. This is also how to get a metric with other counts, for example in a test:

        @register_metric
        def fid100(opts):
            opts.dataset_kwargs.update(max_size=None)
            return {"fid100": compute_fid(opts, max_real=100, num_gen=100)}

    A function of the same name is replaced.
    """
    assert callable(fn)
    _metrics[fn.__name__] = fn
    return fn


def is_valid_metric(metric: str) -> bool:
    """Tell whether there is a metric of this name."""
    return metric in _metrics


def list_valid_metrics() -> list[str]:
    """Return the names of all metrics."""
    return list(_metrics)


def calc_metric(metric: str, **kwargs: Any) -> dnnlib.EasyDict:
    """Compute a metric. All processes must call this.

    Args:
        metric: Its name.
        kwargs: See `MetricOptions`.

    Returns:
        The same in all processes: results (EasyDict of floats), metric, total_time (seconds),
        total_time_str, num_gpus, provenance (see `metrics.provenance.collect`).

    Raises:
        UserError: There is no such metric, no detector, or no data that fits.
    """
    if not is_valid_metric(metric):
        raise UserError(f"there is no metric {metric!r}; use one of {', '.join(_metrics)}")
    opts = MetricOptions(**kwargs)
    if opts.seed is None:
        opts.seed = exchange.broadcast_object(secrets.randbits(32), opts.num_gpus)
    start_time = time.time()
    results = _metrics[metric](opts)
    total_time = time.time() - start_time
    results = {key: float(value) for key, value in results.items()}
    results, total_time = exchange.broadcast_object((results, total_time), opts.num_gpus)
    return dnnlib.EasyDict(
        results=dnnlib.EasyDict(results),
        metric=metric,
        total_time=total_time,
        total_time_str=dnnlib.util.format_time(total_time),
        num_gpus=opts.num_gpus,
        provenance=provenance.collect(opts),
    )


def report_metric(
    result_dict: dict[str, Any], run_dir: str | None = None, snapshot_pkl: str | None = None
) -> None:
    """Print a result as one line of JSON, and append it to `<run_dir>/metric-<name>.jsonl`.

    Args:
        result_dict: As from `calc_metric`.
        run_dir: None, or a folder that is not there = only print.
        snapshot_pkl: The network; its path is given relative to run_dir if both are known.
    """
    metric = result_dict["metric"]
    if run_dir is not None and snapshot_pkl is not None and "://" not in snapshot_pkl:
        snapshot_pkl = os.path.relpath(snapshot_pkl, run_dir)
    line = dict(result_dict, snapshot_pkl=snapshot_pkl, timestamp=time.time())
    if "provenance" in line:
        line["provenance"] = line.pop("provenance")  # to the end
    # NaN and infinities are no JSON.
    line["results"] = {
        key: value if math.isfinite(value) else None for key, value in line["results"].items()
    }
    text = json.dumps(line)
    print(text, flush=True)
    if run_dir is not None and os.path.isdir(run_dir):
        with open(os.path.join(run_dir, f"metric-{metric}.jsonl"), "a", encoding="utf-8") as file:
            file.write(text + "\n")


def _register(name: str, compute: Callable[[MetricOptions], Any], **dataset: Any) -> None:
    """Register a metric of this project.

    Args:
        name: One of METRIC_NAMES.
        compute: Gives a number, or a tuple of them.
        dataset: Arguments of the data set that the metric prescribes.
    """

    def metric(opts: MetricOptions) -> dict[str, float]:
        opts.dataset_kwargs.update(dataset)
        value = compute(opts)
        return dict(zip(_keys(name), value if isinstance(value, tuple) else (value,)))

    metric.__name__ = name
    register_metric(metric)


def _keys(name: str) -> tuple[str, ...]:
    """Keys of the results of one of our metrics."""
    if name.startswith("pr"):
        return f"{name}_precision", f"{name}_recall"
    if name.startswith("is"):
        return f"{name}_mean", f"{name}_std"
    return (name,)


def _fid(max_real: int | None, num_gen: int) -> Callable[[MetricOptions], Any]:
    return lambda opts: frechet_inception_distance.compute_fid(opts, max_real, num_gen)


def _kid(max_real: int, num_gen: int) -> Callable[[MetricOptions], Any]:
    return lambda opts: kernel_inception_distance.compute_kid(
        opts, max_real, num_gen, num_subsets=100, max_subset_size=1000
    )


def _pr(max_real: int) -> Callable[[MetricOptions], Any]:
    return lambda opts: precision_recall.compute_pr(
        opts, max_real, num_gen=50000, nhood_size=3, row_batch_size=10000, col_batch_size=10000
    )


def _is() -> Callable[[MetricOptions], Any]:
    return lambda opts: inception_score.compute_is(opts, num_gen=50000, num_splits=10)


def _ppl(space: str, sampling: str, crop: bool) -> Callable[[MetricOptions], Any]:
    return lambda opts: perceptual_path_length.compute_ppl(
        opts, num_samples=50000, epsilon=1e-4, space=space, sampling=sampling, crop=crop
    )


def _register_all() -> None:
    whole = {"max_size": None, "xflip": False}
    _register("fid50k_full", _fid(None, 50000), **whole)
    _register("kid50k_full", _kid(1_000_000, 50000), **whole)
    _register("pr50k3_full", _pr(200_000), **whole)
    _register("ppl2_wend", _ppl("w", "end", crop=False))
    _register("is50k", _is(), **whole)
    _register("fid50k", _fid(_MAX_REAL, 50000), max_size=None)
    _register("kid50k", _kid(_MAX_REAL, 50000), max_size=None)
    _register("pr50k3", _pr(_MAX_REAL), max_size=None)
    for sampling in ("full", "end"):
        for space in ("z", "w"):
            _register(f"ppl_{space}{sampling}", _ppl(space, sampling, crop=True))
    # The first 50,000 real images, none mirrored: the statistics fid50k_full has on disk serve
    # sets that are not larger.
    _register("fid5k", _fid(_MAX_REAL, 5000), **whole)
    _register("kid5k", _kid(_MAX_REAL, 5000), **whole)
    assert tuple(_metrics) == METRIC_NAMES


_register_all()
