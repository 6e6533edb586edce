"""Kernel Inception Distance (Binkowski et al., "Demystifying MMD GANs", 2018)."""

from __future__ import annotations

import math

import numpy as np

from metrics.detectors import INCEPTION_URL
from metrics.feature_collection import (
    compute_feature_stats_for_dataset,
    compute_feature_stats_for_generator,
)
from metrics.options import MetricOptions


def kernel_distance(
    real: np.ndarray, fake: np.ndarray, num_subsets: int, max_subset_size: int, seed: int
) -> float:
    """Return the unbiased squared MMD with the kernel (x.y / F + 1)^3, averaged over subsets.

    Args:
        real, fake: Features [N, F]; the numbers of rows may differ.
        num_subsets: How many pairs of subsets are drawn.
        max_subset_size: Their size, if there are so many rows.
        seed: Of the choice of subsets.

    Raises:
        ValueError: Fewer than two rows.
    """
    num_features = real.shape[1]
    m = min(len(real), len(fake), max_subset_size)
    if m < 2:
        raise ValueError(f"the kernel distance needs at least 2 images of each kind, got {m}")
    random = np.random.RandomState(seed)
    total = 0.0
    for _subset in range(num_subsets):
        x = fake[random.choice(len(fake), m, replace=False)].astype(np.float64)
        y = real[random.choice(len(real), m, replace=False)].astype(np.float64)
        within = sum(_off_diagonal_sum(_kernel(a, a, num_features)) for a in (x, y))
        across = _kernel(x, y, num_features).sum()
        total += within / (m - 1) - across * 2 / m
    return float(total / num_subsets / m)


def _kernel(a: np.ndarray, b: np.ndarray, num_features: int) -> np.ndarray:
    return (a @ b.T / num_features + 1) ** 3


def _off_diagonal_sum(matrix: np.ndarray) -> float:
    return float(matrix.sum() - np.trace(matrix))


def compute_kid(
    opts: MetricOptions, max_real: int | None, num_gen: int, num_subsets: int, max_subset_size: int
) -> float:
    """Compute the KID between real and generated images; NaN in the ranks other than 0.

    Args:
        opts: What is measured; its seed chooses the subsets too.
        max_real: Use at most so many real images; None = all.
        num_gen: Number of generated images.
        num_subsets, max_subset_size: See `kernel_distance`.
    """
    detector_kwargs = {"return_features": True}
    real = compute_feature_stats_for_dataset(
        opts, INCEPTION_URL, detector_kwargs, rel_hi=0.5, capture_all=True, max_items=max_real
    ).get_all()
    fake = compute_feature_stats_for_generator(
        opts, INCEPTION_URL, detector_kwargs, rel_lo=0.5, capture_all=True, max_items=num_gen
    ).get_all()
    if opts.rank != 0:
        return math.nan
    assert opts.seed is not None
    return kernel_distance(real, fake, num_subsets, max_subset_size, opts.seed)
