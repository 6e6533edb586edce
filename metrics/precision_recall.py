"""Precision and recall (Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing
Generative Models", 2019)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch

from dnnlib import UserError
from metrics import exchange
from metrics.detectors import VGG16_URL
from metrics.feature_collection import (
    compute_feature_stats_for_dataset,
    compute_feature_stats_for_generator,
)
from metrics.options import MetricOptions
from metrics.progress import ProgressMonitor


@dataclasses.dataclass(frozen=True)
class PairwiseDistances:
    """Questions about all pairs of two sets of features, answered block by block.

    Only one block of distances is in memory at a time. The column blocks are shared out among the
    processes, and what they found is joined in all of them.

    Features are rounded to float16 as in StyleGAN2-ADA; distances are float32 on every device,
    because squares of VGG16's features may exceed the range of float16.

    Attributes:
        row_batch, column_batch: Size of a block.
        device: Where distances are computed.
        num_gpus, rank: Processes.
    """

    row_batch: int = 10000
    column_batch: int = 10000
    device: torch.device = torch.device("cpu")
    num_gpus: int = 1
    rank: int = 0

    def radii(
        self, features: torch.Tensor, k: int, progress: ProgressMonitor | None = None
    ) -> torch.Tensor:
        """Return the distance of each vector to its k-th neighbour.

        Args:
            features: [N, F] with N > k.
            k: 1 = the nearest one other than the vector itself.
            progress: Counts rows.

        Returns:
            float32 [N] on the CPU.

        Raises:
            UserError: There are too few vectors.
        """
        if len(features) <= k:
            raise UserError(
                f"neighbourhoods of {k} need more than {k} images, there are {len(features)}"
            )
        result = []
        for rows in features.split(self.row_batch):
            rows = self._rounded(rows)
            nearest = torch.full([len(rows), k + 1], math.inf, device=self.device)
            for columns, _span in self._own_columns(features):
                candidates = torch.cat([nearest, torch.cdist(rows, columns)], dim=1)
                nearest = candidates.topk(k + 1, dim=1, largest=False).values
            everyones = exchange.interleave(nearest[None], self.num_gpus)
            # The vector itself, at distance 0, counts as well.
            radius = everyones.transpose(0, 1).flatten(1).kthvalue(k + 1, dim=1).values
            result.append(radius.cpu())
            if progress is not None:
                progress.update(sum(map(len, result)))
        return torch.cat(result)

    def share_inside(
        self, probes: torch.Tensor, features: torch.Tensor, radii: torch.Tensor
    ) -> float:
        """Return the fraction of probes that lie in the ball around any vector.

        Args:
            probes: [M, F].
            features: [N, F], the centres.
            radii: [N].
        """
        count = 0
        for rows in probes.split(self.row_batch):
            rows = self._rounded(rows)
            inside = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
            for columns, span in self._own_columns(features):
                inside |= (torch.cdist(rows, columns) <= radii[span].to(self.device)).any(dim=1)
            everyones = exchange.interleave(inside[None].to(torch.uint8), self.num_gpus)
            count += int(everyones.amax(dim=0).sum())
        return count / len(probes)

    def _own_columns(self, features: torch.Tensor) -> Iterator[tuple[torch.Tensor, slice]]:
        step = self.column_batch
        for first in range(self.rank * step, len(features), self.num_gpus * step):
            span = slice(first, first + step)
            yield self._rounded(features[span]), span

    def _rounded(self, features: torch.Tensor) -> torch.Tensor:
        return features.to(torch.float16).to(self.device).to(torch.float32)


def precision_and_recall(
    real: torch.Tensor,
    fake: torch.Tensor,
    nhood_size: int,
    distances: PairwiseDistances,
    progress: ProgressMonitor | None = None,
) -> tuple[float, float]:
    """Return the fraction of fakes near a real image, and of real images near a fake.

    Near means within the distance to the other one's `nhood_size`-th neighbour of its own kind.

    Args:
        real, fake: Features [N, F].
        nhood_size: k.
        distances: How to compute.
        progress: Counts the rows of both sets.
    """
    progress = progress if progress is not None else ProgressMonitor()
    total = len(real) + len(fake)
    real, fake = real.to(torch.float16), fake.to(torch.float16)  # once, not for every block
    real_radii = distances.radii(real, nhood_size, progress.sub("radii of reals", len(real)))
    fake_radii = distances.radii(fake, nhood_size, progress.sub("radii of fakes", len(fake)))
    progress = progress.sub("manifolds", total)
    precision = distances.share_inside(fake, real, real_radii)
    progress.update(len(fake))
    recall = distances.share_inside(real, fake, fake_radii)
    progress.update(total)
    return precision, recall


def compute_pr(
    opts: MetricOptions,
    max_real: int | None,
    num_gen: int,
    nhood_size: int,
    row_batch_size: int,
    col_batch_size: int,
) -> tuple[float, float]:
    """Compute precision and recall of generated images.

    Args:
        opts: What is measured.
        max_real: Use at most so many real images; None = all.
        num_gen: Number of generated images.
        nhood_size: k, see `precision_and_recall`.
        row_batch_size, col_batch_size: Pairs are looked at in blocks of this size.
    """
    detector_kwargs = {"return_features": True}
    real = compute_feature_stats_for_dataset(
        opts, VGG16_URL, detector_kwargs, rel_hi=0.4, capture_all=True, max_items=max_real
    ).get_all_torch()
    fake = compute_feature_stats_for_generator(
        opts,
        VGG16_URL,
        detector_kwargs,
        rel_lo=0.4,
        rel_hi=0.8,
        capture_all=True,
        max_items=num_gen,
    ).get_all_torch()
    distances = PairwiseDistances(
        row_batch_size, col_batch_size, opts.device, opts.num_gpus, opts.rank
    )
    progress = opts.progress.sub(rel_lo=0.8)
    return precision_and_recall(real, fake, nhood_size, distances, progress)
