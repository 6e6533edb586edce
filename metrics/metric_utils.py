"""The names that scripts for StyleGAN2-ADA import from here; they live in modules of their own."""

from __future__ import annotations

from metrics.detectors import get_feature_detector, get_feature_detector_name
from metrics.feature_collection import (
    compute_feature_stats_for_dataset,
    compute_feature_stats_for_generator,
)
from metrics.feature_stats import FeatureStats
from metrics.options import MetricOptions
from metrics.progress import ProgressMonitor

__all__ = [
    "FeatureStats",
    "MetricOptions",
    "ProgressMonitor",
    "compute_feature_stats_for_dataset",
    "compute_feature_stats_for_generator",
    "get_feature_detector",
    "get_feature_detector_name",
]
