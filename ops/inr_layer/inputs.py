"""What `inr_layer` reads besides weights and features: taps into a lattice, coordinate features.

Points are a product grid of W, H x W or D x H x W, along the axes of one, two or three coordinates
(x, y, z), or P single points, which are treated as a grid of 1 x P.
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
            or 2^d (bilinear, d coordinates).
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
    """Features of the coordinates of a product grid of points, by how they vary.

    Those of single points are shared or own. The channels of a layer's weight follow in the order
    cols, rows, slices, shared, own. Absent parts are None. Written for H x W points; grids along
    one or three axes have shared and own parts of so many dimensions.

    Attributes:
        cols: [E1, W], functions of x alone.
        rows: [E2, H], functions of y alone.
        shared: [E3, H, W], functions of several coordinates, the same for the whole batch.
        own: [N, E4, H, W], functions of several coordinates, one set per image.
        slices: [E5, D], functions of z alone.
    """

    cols: Tensor | None = None
    rows: Tensor | None = None
    shared: Tensor | None = None
    own: Tensor | None = None
    slices: Tensor | None = None

    def parts(self) -> list[Tensor]:
        """The parts that are present, in channel order."""
        ordered = (self.cols, self.rows, self.slices, self.shared, self.own)
        return [part for part in ordered if part is not None]

    def num_channels(self) -> int:
        """Number of channels of all parts together."""
        num_own = 0 if self.own is None else self.own.shape[1]
        return num_own + sum(part.shape[0] for part in self.without_own().parts())

    def without_own(self) -> CoordFeatures:
        """The features that the whole batch shares."""
        return self._replace(own=None)

    def grid_size(self) -> tuple[int, ...]:
        """(H, W) of the points, or as many sizes as there are axes."""
        if self.own is not None:
            return tuple(self.own.shape[2:])
        if self.shared is not None:
            return tuple(self.shared.shape[1:])
        tables = (self.slices, self.rows, self.cols)
        return tuple(table.shape[1] for table in tables if table is not None)

    def to_dtype(self, dtype: torch.dtype) -> CoordFeatures:
        """The same features in another dtype (cast after the sines and cosines)."""
        if all(part.dtype == dtype for part in self.parts()):
            return self
        return CoordFeatures(*[None if part is None else part.to(dtype) for part in self])

    def dense(self, batch: int, *size: int) -> Tensor:
        """All features written out, [N, E, H, W], for a grid of the given size."""
        full = []
        for axis, table in enumerate((self.cols, self.rows, self.slices)):
            if table is not None:
                # Along the last dimension but `axis`.
                shape = [1] * (len(size) - 1 - axis) + [-1] + [1] * axis
                full.append(table.reshape(1, table.shape[0], *shape))
        if self.shared is not None:
            full.append(self.shared[None])
        if self.own is not None:
            full.append(self.own)
        full = [part.expand(batch, part.shape[1], *size) for part in full]
        return full[0] if len(full) == 1 else torch.cat(full, dim=1)
