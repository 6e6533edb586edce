"""The metrics as functions of features: published numbers, and the laws that must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dnnlib import UserError
from metrics.feature_stats import FeatureStats
from metrics.frechet_inception_distance import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance
from metrics.perceptual_path_length import mean_within_percentiles, slerp
from metrics.precision_recall import PairwiseDistances, precision_and_recall
from tests.golden_files import load

GOLDEN = load("metrics_from_features")
SEEDS = st.integers(0, 2**31)


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    stats = FeatureStats(capture_mean_cov=True)
    stats.append(features)
    return stats.get_mean_cov()


def draw(seed: int, rows: int, columns: int = 5) -> np.ndarray:
    """Correlated features with different spreads."""
    random = np.random.RandomState(seed)
    mixing = random.randn(columns, columns)
    return (random.randn(rows, columns) @ mixing + random.randn(columns)).astype(np.float32)


def test_fid_equals_the_published_code() -> None:
    fid = frechet_distance(*moments(GOLDEN["real"]), *moments(GOLDEN["fake"]))
    assert fid == pytest.approx(float(GOLDEN["fid"]), rel=1e-6)


def test_kid_equals_the_published_code_with_its_seed() -> None:
    kid = kernel_distance(
        GOLDEN["real"], GOLDEN["fake"], num_subsets=100, max_subset_size=200, seed=1
    )
    assert kid == pytest.approx(float(GOLDEN["kid_seed1_subsets100_size200"]), rel=1e-6)
    other = kernel_distance(GOLDEN["real"], GOLDEN["fake"], 100, 200, seed=2)
    assert other != kid and other == pytest.approx(kid, rel=0.1)


@pytest.mark.parametrize("blocks", [(10000, 10000), (100, 70), (7, 1000)])
def test_precision_and_recall_equal_the_published_code(blocks: tuple[int, int]) -> None:
    real, fake = torch.from_numpy(GOLDEN["real"]), torch.from_numpy(GOLDEN["fake"])
    precision, recall = precision_and_recall(real, fake, 3, PairwiseDistances(*blocks))
    assert precision == pytest.approx(float(GOLDEN["precision"]), rel=1e-6)
    assert recall == pytest.approx(float(GOLDEN["recall"]), rel=1e-6)


def test_inception_score_equals_the_published_code() -> None:
    mean, std = inception_score(GOLDEN["probs"], 10)
    assert mean == pytest.approx(float(GOLDEN["is_mean"]), rel=1e-6)
    assert std == pytest.approx(float(GOLDEN["is_std"]), rel=1e-6)


@given(SEEDS, SEEDS)
def test_fid_is_symmetric_and_zero_for_equal_sets(seed1: int, seed2: int) -> None:
    a, b = moments(draw(seed1, 20)), moments(draw(seed2, 30))
    scale = np.trace(a[1]) + np.trace(b[1])
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-6 * scale)
    assert frechet_distance(*a, *b) == pytest.approx(frechet_distance(*b, *a), abs=1e-6 * scale)


@given(SEEDS, st.integers(2, 12))
def test_fid_of_a_shifted_set_is_the_shift_squared(seed: int, rows: int) -> None:
    """Also with fewer rows than features, where the covariance has no root by Cholesky."""
    features = draw(seed, rows, columns=8).astype(np.float64)
    shift = np.random.RandomState(seed + 1).randn(8)
    mean, cov = moments(features)
    fid = frechet_distance(mean, cov, mean + shift, cov)
    assert fid == pytest.approx(np.square(shift).sum(), abs=1e-5 * (1 + np.trace(cov)))


def test_fid_of_independent_normal_features_has_a_closed_form() -> None:
    """For diagonal covariances it is the sum of (m1 - m2)^2 + (s1 - s2)^2."""
    s1, s2 = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 0.25])
    fid = frechet_distance(np.zeros(3), np.diag(s1**2), np.ones(3), np.diag(s2**2))
    assert fid == pytest.approx(3 + np.square(s1 - s2).sum(), rel=1e-12)


@given(SEEDS)
def test_kid_of_two_halves_of_one_set_is_about_zero_and_of_shifted_sets_positive(seed: int) -> None:
    random = np.random.RandomState(seed)
    a, b = random.randn(150, 4), random.randn(150, 4)
    near = kernel_distance(a, b, 20, 100, seed=0)
    far = kernel_distance(a, b + 1.5, 20, 100, seed=0)
    assert abs(near) < far / 5
    with pytest.raises(ValueError, match="at least 2 images"):
        kernel_distance(a[:1], b, 1, 10, seed=0)


@given(SEEDS, st.integers(1, 4))
def test_precision_and_recall_by_hand(seed: int, k: int) -> None:
    """Against the definition, one pair at a time."""
    random = np.random.RandomState(seed)
    real = random.randint(-8, 9, [11, 2]).astype(np.float32)
    fake = random.randint(-8, 9, [9, 2]).astype(np.float32)

    def share(probes: np.ndarray, centres: np.ndarray) -> float:
        def squared(a: np.ndarray, b: np.ndarray) -> float:
            return float(np.square(a - b).sum())

        radii = [sorted(squared(a, b) for b in centres)[k] for a in centres]
        hits = [any(squared(p, c) <= r for c, r in zip(centres, radii)) for p in probes]
        return float(np.mean(hits))

    found = precision_and_recall(
        torch.from_numpy(real), torch.from_numpy(fake), k, PairwiseDistances(4, 3)
    )
    assert found == pytest.approx((share(fake, real), share(real, fake)))


def test_precision_of_the_set_itself_is_one_and_needs_enough_images() -> None:
    features = torch.from_numpy(draw(0, 12))
    assert precision_and_recall(features, features, 3, PairwiseDistances()) == (1, 1)
    assert precision_and_recall(features, features + 1000, 3, PairwiseDistances()) == (0, 0)
    with pytest.raises(UserError, match="need more than 12 images, there are 12"):
        precision_and_recall(features, features, 12, PairwiseDistances())


@pytest.mark.parametrize("classes", [2, 7])
def test_inception_score_of_certain_answers_is_the_number_of_classes(classes: int) -> None:
    certain = np.tile(np.eye(classes), [4, 1])
    assert inception_score(certain, 2) == pytest.approx((classes, 0))
    assert inception_score(np.full([12, classes], 1 / classes), 3) == pytest.approx((1, 0))


def test_slerp() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    for t in (0.0, 0.3, 1.0):
        angle = torch.tensor(t * torch.pi / 2)
        expected = torch.stack([angle.cos(), angle.sin()])[None]
        assert torch.allclose(slerp(a, b, torch.tensor([[t]])), expected, atol=1e-6)


def test_outliers_do_not_count() -> None:
    values = np.arange(1000, dtype=np.float64)
    values[-1] = 1e9
    # The 1st percentile lies at 9.99, which is rounded down to 9; the 99th at 989.01, up to 990.
    assert mean_within_percentiles(values) == pytest.approx(np.arange(9, 991).mean())
