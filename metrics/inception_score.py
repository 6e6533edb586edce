"""Inception Score (Salimans et al., "Improved Techniques for Training GANs", 2016)."""

from __future__ import annotations

import math

import numpy as np

from metrics.detectors import INCEPTION_URL
from metrics.feature_collection import compute_feature_stats_for_generator
from metrics.options import MetricOptions


def inception_score(probabilities: np.ndarray, num_splits: int) -> tuple[float, float]:
    """Return mean and (population) standard deviation over splits of exp(mean KL(p | mean p)).

    Args:
        probabilities: [N, number of classes], each row adding up to 1.
        num_splits: Number of consecutive parts; at most N.
    """
    p = probabilities.astype(np.float64)
    bounds = [i * len(p) // num_splits for i in range(num_splits + 1)]
    scores = []
    for first, end in zip(bounds, bounds[1:]):
        part = p[first:end]
        ratio = np.divide(part, part.mean(axis=0), out=np.ones_like(part), where=part > 0)
        scores.append(np.exp((part * np.log(ratio)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def compute_is(opts: MetricOptions, num_gen: int, num_splits: int) -> tuple[float, float]:
    """Compute the IS of generated images: mean and standard deviation; NaN in ranks other than 0.

    Args:
        opts: What is measured.
        num_gen: Number of generated images.
        num_splits: See `inception_score`.
    """
    # The original implementation leaves the bias of the last layer out.
    probabilities = compute_feature_stats_for_generator(
        opts, INCEPTION_URL, {"no_output_bias": True}, capture_all=True, max_items=num_gen
    ).get_all()
    if opts.rank != 0:
        return math.nan, math.nan
    return inception_score(probabilities, num_splits)
