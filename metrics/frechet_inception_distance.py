"""Frechet Inception Distance (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge
to a Local Nash Equilibrium", 2017)."""

from __future__ import annotations

import math

import numpy as np

from metrics.detectors import INCEPTION_URL
from metrics.feature_collection import (
    compute_feature_stats_for_dataset,
    compute_feature_stats_for_generator,
)
from metrics.options import MetricOptions


def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """Return |m1 - m2|^2 + Tr(C1 + C2 - 2 sqrt(C1 C2)), the squared Wasserstein distance between
    two normal distributions.

    The trace of the root comes from symmetric eigenvalue problems: C1 C2 and C1^1/2 C2 C1^1/2 have
    the same eigenvalues, and the latter are real and not negative, so that no imaginary part has to
    be explained away, also for singular matrices (fewer images than features).

    Args:
        mean1, mean2: [F].
        cov1, cov2: [F, F], symmetric, positive semi-definite.
    """
    values, vectors = np.linalg.eigh(cov1)
    root = vectors * np.sqrt(values.clip(min=0))  # root @ root.T = cov1
    eigenvalues = np.linalg.eigvalsh(root.T @ cov2 @ root)
    trace_of_root = np.sqrt(eigenvalues.clip(min=0)).sum()
    distance = np.square(mean1 - mean2).sum()
    return float(distance + np.trace(cov1) + np.trace(cov2) - 2 * trace_of_root)


def compute_fid(opts: MetricOptions, max_real: int | None, num_gen: int) -> float:
    """Compute the FID between real and generated images; NaN in the ranks other than 0.

    Args:
        opts: What is measured.
        max_real: Use at most so many real images; None = all.
        num_gen: Number of generated images.
    """
    detector_kwargs = {"return_features": True}
    real_mean, real_cov = compute_feature_stats_for_dataset(
        opts,
        INCEPTION_URL,
        detector_kwargs,
        rel_hi=0.5,
        capture_mean_cov=True,
        max_items=max_real,
    ).get_mean_cov()
    gen_mean, gen_cov = compute_feature_stats_for_generator(
        opts,
        INCEPTION_URL,
        detector_kwargs,
        rel_lo=0.5,
        capture_mean_cov=True,
        max_items=num_gen,
    ).get_mean_cov()
    if opts.rank != 0:
        return math.nan
    return frechet_distance(real_mean, real_cov, gen_mean, gen_cov)
