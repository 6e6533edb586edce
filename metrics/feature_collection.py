"""Shows images to a detector and collects what it answers: real images, and generated ones."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import dnnlib
from dnnlib import UserError
from metrics import draws, exchange, stats_cache
from metrics.detectors import Detector, get_feature_detector
from metrics.feature_stats import FeatureStats
from metrics.fingerprint import dataset_fingerprint, recorded_resize_filter
from metrics.options import MetricOptions
from metrics.pictures import to_rgb
from torch_utils.images import to_uint8

_BATCH_SIZE = 64
_BATCH_GEN = 4
_MAX_WORKERS = 3
_IMAGES_PER_WORKER = 256  # starting one for fewer takes longer than it saves


def load_detector_for(opts: MetricOptions, url: str) -> Detector:
    """Load a detector in all processes and note it in the provenance."""
    detector = get_feature_detector(
        url,
        device=opts.device,
        num_gpus=opts.num_gpus,
        rank=opts.rank,
        verbose=opts.progress.verbose,
        overrides=opts.detectors,
    )
    opts.provenance.setdefault("detectors", {})[detector.name] = detector.sha256
    return detector


def compute_feature_stats_for_dataset(
    opts: MetricOptions,
    detector_url: str,
    detector_kwargs: Mapping[str, Any],
    rel_lo: float = 0,
    rel_hi: float = 1,
    batch_size: int = _BATCH_SIZE,
    data_loader_kwargs: Mapping[str, Any] | None = None,
    max_items: int | None = None,
    **stats_kwargs: Any,
) -> FeatureStats:
    """Collect the features of real images: the first `max_items` in the set's order.

    Args:
        opts: dataset_kwargs, device, processes, cache.
        detector_url: See `metrics.detectors.load_detector`.
        detector_kwargs: Arguments of the detector's call.
        rel_lo, rel_hi: The part of `opts.progress` that this is.
        batch_size: Images per detector call; `opts.batch_size` wins.
        data_loader_kwargs: None = `opts.data_loader_kwargs`.
        max_items: None = all.
        stats_kwargs: Of `FeatureStats`.

    Raises:
        UserError: No set of images, no detector.
    """
    if "class_name" not in opts.dataset_kwargs:
        raise UserError("this metric compares with real images, but no data set was given")
    dataset = dnnlib.util.construct_class_by_name(**opts.dataset_kwargs)
    detector = load_detector_for(opts, detector_url)
    num_items = min(len(dataset), max_items or len(dataset))

    def describe() -> tuple[str, str | None]:
        path = opts.dataset_kwargs.get("path")
        resize_filter = recorded_resize_filter(path) if path is not None else None
        return dataset_fingerprint(dataset, opts.dataset_kwargs), resize_filter

    fingerprint, resize_filter = exchange.from_leader(describe, opts.num_gpus, opts.rank)
    opts.provenance.update(
        dataset=dataset.name,
        dataset_fingerprint=fingerprint,
        resize_filter=resize_filter,
        num_real=num_items,
        xflip=bool(opts.dataset_kwargs.get("xflip", False)),
    )
    key = stats_cache.cache_key(
        dataset_kwargs=opts.dataset_kwargs,
        fingerprint=fingerprint,
        detector_sha256=detector.sha256,
        detector_kwargs=detector_kwargs,
        num_items=num_items,
        stats_kwargs=stats_kwargs,
        resize_filter=resize_filter,
    )
    path = stats_cache.cache_path(key, dataset.name, detector.name)
    stats = _cached(path, key, opts) if opts.cache else None
    if stats is None:
        stats = FeatureStats(max_items=num_items, **stats_kwargs)
        kwargs = opts.data_loader_kwargs if data_loader_kwargs is None else data_loader_kwargs
        batch_size = opts.batch_size or batch_size
        progress = opts.progress.sub("dataset features", num_items, rel_lo=rel_lo, rel_hi=rel_hi)
        for images in _real_images(dataset, num_items, opts, batch_size, kwargs):
            with torch.no_grad():
                features = detector(to_rgb(images), **detector_kwargs)
            _append(stats, features, opts, f'the detector\'s answers to "{dataset.name}"')
            progress.update(stats.num_items)
        if opts.cache and opts.rank == 0:
            stats_cache.store(path, key, stats)
    return stats


def _cached(path: str, key: str, opts: MetricOptions) -> FeatureStats | None:
    """What rank 0 has on its disk, in all processes."""
    arrays = stats_cache.load_arrays(path, key) if opts.rank == 0 else None
    if not exchange.broadcast_object(arrays is not None, opts.num_gpus):
        return None
    return FeatureStats.from_arrays(exchange.broadcast_arrays(arrays, opts.num_gpus))


def _real_images(
    dataset: Any,
    num_items: int,
    opts: MetricOptions,
    batch_size: int,
    loader_kwargs: Mapping[str, Any] | None,
) -> Any:
    """Batches of this process's share, uint8 on its device; all shares are equally large."""
    num_rounds = -(-num_items // opts.num_gpus)
    items = [(i * opts.num_gpus + opts.rank) % num_items for i in range(num_rounds)]
    if loader_kwargs is None:
        workers = min(_MAX_WORKERS, os.cpu_count() or 1, len(items) // _IMAGES_PER_WORKER)
        loader_kwargs = {"pin_memory": True, "num_workers": workers, "prefetch_factor": 2}
    kwargs = dict(loader_kwargs)
    if opts.device.type != "cuda":
        kwargs["pin_memory"] = False
    if kwargs.get("num_workers", 0) == 0:
        kwargs.pop("prefetch_factor", None)
    # Else a loader would draw its seed from the random state of a training.
    kwargs.setdefault("generator", torch.Generator())
    loader = torch.utils.data.DataLoader(dataset, sampler=items, batch_size=batch_size, **kwargs)
    for images, _labels in loader:
        yield images.to(opts.device, non_blocking=True)


def compute_feature_stats_for_generator(
    opts: MetricOptions,
    detector_url: str,
    detector_kwargs: Mapping[str, Any],
    rel_lo: float = 0,
    rel_hi: float = 1,
    batch_size: int = _BATCH_SIZE,
    batch_gen: int | None = None,
    jit: bool = False,
    **stats_kwargs: Any,
) -> FeatureStats:
    """Collect the features of generated images; sample i is the same in every run, see `draws`.

    Args:
        opts: G, G_kwargs, seed, dataset_kwargs (labels, if G is conditional), device, processes.
        detector_url: See `metrics.detectors.load_detector`.
        detector_kwargs: Arguments of the detector's call.
        rel_lo, rel_hi: The part of `opts.progress` that this is.
        batch_size: Images per detector call; `opts.batch_size` wins.
        batch_gen: Images per generator call; None = at most 4. `opts.batch_gen` wins.
        jit: Without meaning; StyleGAN2-ADA could trace the generator.
        stats_kwargs: Of `FeatureStats`; max_items, the number of images, is required.

    Raises:
        UserError: G has no labels to draw, or gives values that are not finite.
    """
    stats = FeatureStats(**stats_kwargs)
    if stats.max_items is None:
        raise ValueError("max_items: how many images shall be generated?")
    detector = load_detector_for(opts, detector_url)
    sampler = Sampler(opts)
    opts.provenance["num_fake"] = stats.max_items
    batch_size = opts.batch_size or batch_size
    batch_gen = opts.batch_gen or batch_gen or min(batch_size, _BATCH_GEN)
    progress = opts.progress.sub(
        "generator features", stats.max_items, rel_lo=rel_lo, rel_hi=rel_hi
    )
    while not stats.is_full():
        indices = next_indices(stats.num_items, stats.max_items, batch_size, opts)
        parts = [indices[i : i + batch_gen] for i in range(0, len(indices), batch_gen)]
        images = torch.cat([sampler.images(part) for part in parts])
        with torch.no_grad():
            features = detector(to_rgb(to_uint8(images)), **detector_kwargs)
        if not torch.isfinite(images).all():
            features = torch.full_like(features, math.nan)
        _append(stats, features, opts, "the generator's images")
        progress.update(stats.num_items)
    return stats


def _append(stats: FeatureStats, features: torch.Tensor, opts: MetricOptions, what: str) -> None:
    """Add the vectors of all processes; what is not finite is an error in all of them.

    (An error in one process only would leave the others waiting for it.)
    """
    features = exchange.interleave(features, opts.num_gpus)
    if not torch.isfinite(features).all():
        raise UserError(f"{what} hold values that are not finite, so there is no result")
    stats.append_torch(features)


def next_indices(done: int, total: int, batch_size: int, opts: MetricOptions) -> list[int]:
    """Return the samples of this process's next batch; as many in every process.

    Args:
        done: Samples that all processes together have.
        total: How many there shall be; the last batch may go slightly beyond.
        batch_size: The most per process.
        opts: Processes.
    """
    count = min(batch_size, -(-(total - done) // opts.num_gpus))
    return [done + i * opts.num_gpus + opts.rank for i in range(count)]


class Sampler:
    """The generator of a metric, and the inputs that belong to each sample.

    Args:
        opts: G, G_kwargs, seed, dataset_kwargs, device. G itself is not changed.

    Attributes:
        G: In evaluation mode on the device.

    Raises:
        UserError: G is conditional, but the data set has no such labels.
    """

    def __init__(self, opts: MetricOptions) -> None:
        if opts.G is None:
            raise ValueError("this metric needs a generator: MetricOptions(G=...)")
        if opts.seed is None:
            raise ValueError("the seed must be drawn before the work begins, see calc_metric")
        self._opts = opts
        self._seed = opts.seed
        self.G: nn.Module = copy.deepcopy(opts.G).eval().requires_grad_(False).to(opts.device)
        self._noisy = True  # until the first images show the contrary
        self._labels_from = self._conditioning_set() if getattr(self.G, "c_dim", 0) > 0 else None

    def _conditioning_set(self) -> Any:
        c_dim = self.G.c_dim
        if "class_name" not in self._opts.dataset_kwargs:
            raise UserError(
                f"the generator needs labels of dimension {c_dim}, but no data set was given"
            )
        dataset = dnnlib.util.construct_class_by_name(**self._opts.dataset_kwargs)
        dim = dataset.label_dim if dataset.has_labels else 0
        if dim != c_dim:
            raise UserError(
                f"the generator needs labels of dimension {c_dim}, but those of "
                f'"{dataset.name}" have dimension {dim}; use the data set it was trained on'
            )
        return dataset

    def latents(self, indices: Sequence[int], purpose: int = draws.LATENT) -> torch.Tensor:
        """z of the samples, float32 [N, z_dim]."""
        z = draws.normal(self._seed, purpose, indices, self.G.z_dim)
        return z.to(self._opts.device)

    def labels(self, indices: Sequence[int]) -> torch.Tensor:
        """c of the samples, float32 [N, c_dim]."""
        if self._labels_from is None:
            return torch.zeros([len(indices), 0], device=self._opts.device)
        return draws.labels(self._seed, indices, self._labels_from).to(self._opts.device)

    @torch.no_grad()
    def images(self, indices: Sequence[int]) -> torch.Tensor:
        """Generated images, about [-1, 1], [N, C, H, W]."""
        z, c = self.latents(indices), self.labels(indices)
        with self.noise(indices):
            return self.G(z, c, **self._opts.G_kwargs)

    @contextlib.contextmanager
    def noise(self, indices: Sequence[int]) -> Iterator[None]:
        """Give each image of a batch its own noise; see `draws.SampleNoise`."""
        # The context looks at every torch function, which networks without noise need not wait for.
        if not self._noisy:
            yield
            return
        with draws.SampleNoise(self._seed, indices) as noise:
            yield
        self._noisy = noise.used
