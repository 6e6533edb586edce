"""Features of many images: all of them, or only their mean and covariance."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from metrics import exchange
from torch_utils.array_file import read_arrays, write_arrays

# Rows per update of the moments. Fixed, so that sums are formed in the same order whatever the
# batch size and the number of processes.
_BLOCK_ROWS = 512


class FeatureStats:
    """Collects feature vectors, one per image.

    Mean and covariance are kept in float64 and updated block by block (Chan, Golub, LeVeque:
    "Updating formulae and a pairwise algorithm for computing sample variances", 1979), so that the
    features themselves need not be kept, and a mean far from zero costs no digits.

    Args:
        capture_all: Keep every vector, in float32, for `get_all`.
        capture_mean_cov: Keep the moments, for `get_mean_cov`.
        max_items: Ignore what comes after so many vectors; None = no limit.

    Attributes:
        num_items: Vectors so far.
        num_features: Their length; None = none has come.
    """

    def __init__(
        self,
        capture_all: bool = False,
        capture_mean_cov: bool = False,
        max_items: int | None = None,
    ) -> None:
        self.capture_all = capture_all
        self.capture_mean_cov = capture_mean_cov
        self.max_items = max_items
        self.num_items = 0
        self.num_features: int | None = None
        self._features: list[np.ndarray] = []
        self._moments = _Moments()
        self._rest = np.zeros([0, 0])  # rows that do not fill a block yet

    def is_full(self) -> bool:
        """Tell whether there are `max_items` vectors."""
        return self.max_items is not None and self.num_items >= self.max_items

    def append(self, x: np.ndarray) -> None:
        """Add vectors [N, num_features].

        Raises:
            ValueError: Another shape than the vectors before.
        """
        x = np.asarray(x, dtype=np.float32)
        if x.ndim != 2 or self.num_features not in (None, x.shape[1]):
            raise ValueError(
                f"features must be [N, {self.num_features or 'F'}], got {list(x.shape)}"
            )
        self.num_features = x.shape[1]
        if self.max_items is not None:
            x = x[: max(self.max_items - self.num_items, 0)]
        self.num_items += len(x)
        if self.capture_all:
            self._features.append(x)
        if self.capture_mean_cov:
            rows = np.concatenate([self._rest.reshape(-1, x.shape[1]), x.astype(np.float64)])
            full = len(rows) - len(rows) % _BLOCK_ROWS
            for start in range(0, full, _BLOCK_ROWS):
                self._moments.add(rows[start : start + _BLOCK_ROWS])
            self._rest = rows[full:]

    def append_torch(self, x: torch.Tensor, num_gpus: int = 1, rank: int = 0) -> None:
        """Add the vectors of all processes, [N, num_features] each, of the same N.

        Row i of rank r becomes row i * num_gpus + r of what is added, in every process.
        """
        assert 0 <= rank < num_gpus
        self.append(exchange.interleave(x, num_gpus).detach().cpu().numpy())

    def get_all(self) -> np.ndarray:
        """Return all vectors, float32 [num_items, num_features]."""
        assert self.capture_all, "FeatureStats was made without capture_all"
        self._features = [np.concatenate(self._features)]  # not a second copy in memory
        return self._features[0]

    def get_all_torch(self) -> torch.Tensor:
        """Return all vectors as a tensor on the CPU."""
        return torch.from_numpy(self.get_all())

    def get_mean_cov(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean [F] and the covariance [F, F] (divided by num_items), float64."""
        assert self.capture_mean_cov, "FeatureStats was made without capture_mean_cov"
        total = self._total_moments()
        if total.count == 0:
            raise ValueError("no features, no mean")
        return total.mean, total.scatter / total.count

    def _total_moments(self) -> _Moments:
        total = self._moments.copy()
        if len(self._rest):
            total.add(self._rest)
        return total

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays without Python objects; see `from_arrays`."""
        arrays: dict[str, Any] = {
            "num_items": self.num_items,
            "num_features": self.num_features or 0,
            "max_items": -1 if self.max_items is None else self.max_items,
        }
        if self.capture_all:
            arrays["features"] = self.get_all()
        if self.capture_mean_cov:
            total = self._total_moments()
            arrays |= {"mean": total.mean, "scatter": total.scatter}
        return {name: np.asarray(value) for name, value in arrays.items()}

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray]) -> FeatureStats:
        """Make the object again; further vectors may be added.

        Raises:
            ValueError: The arrays do not fit together.
        """
        try:
            count, length, limit = (
                int(arrays[name]) for name in ("num_items", "num_features", "max_items")
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no statistics of features: {error}") from error
        shapes = {"features": (count, length), "mean": (length,), "scatter": (length, length)}
        dtypes = {"features": np.float32, "mean": np.float64, "scatter": np.float64}
        given = [name for name in shapes if name in arrays]
        for name in given:
            array = arrays[name]
            if array.shape != shapes[name] or array.dtype != dtypes[name]:
                raise ValueError(f"{name!r} is {array.dtype} {list(array.shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name!r} holds values that are not finite")
        if count < 1 or given not in (["features"], ["mean", "scatter"], list(shapes)):
            raise ValueError(f"{count} items and only {given}")
        stats = FeatureStats("features" in arrays, "mean" in arrays, limit if limit >= 0 else None)
        stats.num_items, stats.num_features = count, length
        if stats.capture_all:
            stats._features = [arrays["features"]]
        if stats.capture_mean_cov:
            stats._moments = _Moments(count, arrays["mean"], arrays["scatter"])
        return stats

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an .npz file, atomically.

        Raises:
            FileError: That cannot be done.
        """
        write_arrays(path, self.to_arrays())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> FeatureStats:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is damaged or holds anything else.
        """
        try:
            return FeatureStats.from_arrays(read_arrays(path))
        except ValueError as error:
            raise ValueError(f"cannot read {os.fspath(path)!r}: {error}") from error


class _Moments:
    """Count, mean and sum of outer products of deviations."""

    def __init__(
        self, count: int = 0, mean: np.ndarray | None = None, scatter: np.ndarray | None = None
    ) -> None:
        self.count = count
        self.mean = np.zeros([0]) if mean is None else mean
        self.scatter = np.zeros([0, 0]) if scatter is None else scatter

    def copy(self) -> _Moments:
        return _Moments(self.count, self.mean.copy(), self.scatter.copy())

    def add(self, rows: np.ndarray) -> None:
        """Take up float64 rows [N, F]."""
        n = len(rows)
        mean = rows.mean(axis=0)
        centred = rows - mean
        scatter = centred.T @ centred
        if self.count == 0:
            self.count, self.mean, self.scatter = n, mean, scatter
            return
        total = self.count + n
        delta = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(delta, delta) * (self.count * n / total)
        self.mean = self.mean + delta * (n / total)
        self.count = total
