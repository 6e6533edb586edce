"""Streaming statistics: equal to those of the whole, independent of batches; files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metrics import feature_stats
from metrics.feature_stats import FeatureStats


def batches(features: np.ndarray, size: int) -> list[np.ndarray]:
    return [features[i : i + size] for i in range(0, len(features), size)]


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 50), st.integers(2, 16))
def test_streaming_equals_batch(seed: int, rows: int, size: int, block: int) -> None:
    random = np.random.RandomState(seed)
    features = (random.randn(rows, 3) * [1, 10, 0.1] + [100, 0, -5]).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_stats, "_BLOCK_ROWS", block)
        stats = FeatureStats(capture_mean_cov=True)
        for batch in batches(features, size):
            stats.append(batch)
        mean, cov = stats.get_mean_cov()
    exact = features.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cov, np.cov(exact, rowvar=False, bias=True), rtol=1e-9, atol=1e-10)


def test_batch_size_changes_no_bit() -> None:
    features = np.random.RandomState(0).randn(1300, 4).astype(np.float32)
    found = []
    for size in (1, 64, 1300):
        stats = FeatureStats(capture_mean_cov=True)
        for batch in batches(features, size):
            stats.append(batch)
        found.append(stats.get_mean_cov())
    for mean, cov in found[1:]:
        assert np.array_equal(mean, found[0][0]) and np.array_equal(cov, found[0][1])


def test_a_large_mean_costs_no_digits() -> None:
    """Sums of squares would leave nothing of a variance that is 1e-18 of the squared mean."""
    features = np.float32(2**20) + np.tile(np.float32([[0.0], [0.125]]), [1000, 1])
    stats = FeatureStats(capture_mean_cov=True)
    stats.append(features)
    assert stats.get_mean_cov()[1].item() == pytest.approx(0.0625**2, rel=1e-9)


def test_limit_and_all_features() -> None:
    stats = FeatureStats(capture_all=True, max_items=5)
    assert not stats.is_full()
    stats.append(np.arange(6).reshape(3, 2))
    stats.append_torch(torch.arange(6, 14).reshape(4, 2))
    stats.append_torch(torch.zeros(4, 2))
    assert stats.is_full() and stats.num_items == 5 and stats.num_features == 2
    assert stats.get_all().dtype == np.float32
    assert stats.get_all().tolist() == np.arange(10).reshape(5, 2).tolist()
    assert torch.equal(stats.get_all_torch(), torch.arange(10.0).reshape(5, 2))
    with pytest.raises(ValueError, match=r"\[N, 2\], got \[1, 3\]"):
        stats.append(np.zeros([1, 3]))
    with pytest.raises(AssertionError, match="capture_mean_cov"):
        stats.get_mean_cov()
    with pytest.raises(ValueError, match="no features"):
        FeatureStats(capture_mean_cov=True).get_mean_cov()


def test_file_round_trip(tmp_path: Path) -> None:
    features = np.random.RandomState(0).randn(20, 4).astype(np.float32)
    stats = FeatureStats(capture_all=True, capture_mean_cov=True, max_items=30)
    stats.append(features[:15])
    stats.save(tmp_path / "x.npz")
    loaded = FeatureStats.load(tmp_path / "x.npz")
    for each in (stats, loaded):
        each.append(features[15:])
    assert loaded.max_items == 30 and loaded.num_items == 20
    assert np.array_equal(loaded.get_all(), features)
    np.testing.assert_allclose(loaded.get_mean_cov()[1], stats.get_mean_cov()[1], rtol=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError):
        FeatureStats.load(path)
    stats = FeatureStats(capture_mean_cov=True)
    stats.append(np.eye(3))
    good = stats.to_arrays()
    wrong = [
        {},
        {**good, "num_items": np.array(0)},
        {**good, "num_features": np.array(4)},
        {**good, "mean": good["mean"].astype(np.float32)},
        {**good, "scatter": np.full([3, 3], np.nan)},
        {name: array for name, array in good.items() if name != "scatter"},
    ]
    for arrays in wrong:
        np.savez(path, **arrays)
        with pytest.raises(ValueError):
            FeatureStats.load(path)
    stats.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cannot read"):
        FeatureStats.load(path)


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple:
        return open, ("hostile_was_here", "w")


def test_pickles_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (
        ("array.npz", lambda file: np.savez(file, mean=np.array([Hostile()], dtype=object))),
        ("plain.npz", lambda file: file.write(pickle.dumps(Hostile()))),
    ):
        with open(name, "wb") as file:
            write(file)
        with pytest.raises(ValueError, match="cannot read"):
            FeatureStats.load(name)
    assert not Path("hostile_was_here").exists()
