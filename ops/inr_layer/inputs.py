"""What `inr_layer` reads besides weights and features: taps into a lattice, coordinate features.

Points are a product grid of H x W, or P single points, which are treated as a grid of 1 x P.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AxisTaps(NamedTuple):
    """How one axis of the fine grid reads the lattice below.

    y[j] = sum_t weight[j, t] * x[index[j, t]], as planned by `networks.lattice.Taps`.

    Attributes:
        index: int64 [n, T], T = 1 (nearest) or 2 (bilinear).
        weight: float [n, T], rows sum to 1.
        size: Number of lattice entries along this axis.
        doubling: Offset of the first point among the halves of the entries, where both are
            consecutive cells of lattices R and 2R; None otherwise.
        aligned: Whether the n points divide the way from the first entry to the last evenly.
    """

    index: Tensor
    weight: Tensor
    size: int
    doubling: int | None = None
    aligned: bool = False

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The same map as a dense matrix [n, size]."""
        zeros = torch.zeros([self.index.shape[0], self.size], dtype=dtype, device=self.index.device)
        return zeros.scatter_add(1, self.index, self.weight.to(dtype))


class PointTaps(NamedTuple):
    """How P single points read the lattice below: y[j] = sum_t weight[j, t] * x[index[j, t]].

    Attributes:
        index: int64 [P, T], positions among the `size` values below, row by row; T = 1 (nearest)
            or 4 (bilinear).
        weight: float [P, T], rows sum to 1; may carry a gradient. Not read if T = 1.
        size: Number of values below.
    """

    index: Tensor
    weight: Tensor
    size: int

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The same map as a dense matrix [P, size]."""
        zeros = torch.zeros([self.index.shape[0], self.size], dtype=dtype, device=self.index.device)
        return zeros.scatter_add(1, self.index, self.weight.to(dtype))


class CoordFeatures(NamedTuple):
    """Features of the coordinates of a product grid of H x W points, by how they vary.

    Those of single points are shared or own. The channels of a layer's weight follow in this
    order. Absent parts are None.

    Attributes:
        cols: [E1, W], functions of x alone.
        rows: [E2, H], functions of y alone.
        shared: [E3, H, W], functions of both, the same for the whole batch.
        own: [N, E4, H, W], functions of both, one set per image.
    """

    cols: Tensor | None = None
    rows: Tensor | None = None
    shared: Tensor | None = None
    own: Tensor | None = None

    def parts(self) -> list[Tensor]:
        """The parts that are present, in channel order."""
        return [part for part in self if part is not None]

    def num_channels(self) -> int:
        """Number of channels of all parts together."""
        return sum(part.shape[1 if part.ndim == 4 else 0] for part in self.parts())

    def without_own(self) -> CoordFeatures:
        """The features that the whole batch shares."""
        return self._replace(own=None)

    def grid_size(self) -> tuple[int, int]:
        """(H, W) of the points."""
        for part in (self.own, self.shared):
            if part is not None:
                return part.shape[-2], part.shape[-1]
        return self.rows.shape[1], self.cols.shape[1]

    def to_dtype(self, dtype: torch.dtype) -> CoordFeatures:
        """The same features in another dtype (cast after the sines and cosines)."""
        return CoordFeatures(*[None if part is None else part.to(dtype) for part in self])

    def dense(self, batch: int, height: int, width: int) -> Tensor:
        """All features written out, [N, E, H, W]."""
        full = []
        for name, part in zip(self._fields, self):
            if part is None:
                continue
            if name == "cols":
                part = part[None, :, None, :]
            elif name == "rows":
                part = part[None, :, :, None]
            elif name == "shared":
                part = part[None]
            full.append(part.expand(batch, part.shape[1], height, width))
        return full[0] if len(full) == 1 else torch.cat(full, dim=1)
