"""What a metric is computed from and how: `MetricOptions`, one object per call of `calc_metric`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import dnnlib
from dnnlib import UserError
from metrics.progress import ProgressMonitor

_MAX_SEED = 2**32 - 1


class MetricOptions:
    """The arguments of `metric_main.calc_metric`. The first eight are StyleGAN2-ADA's.

    Args:
        G: The generator.
        G_kwargs: Further arguments of `G(z, c, ...)`, for example truncation_psi.
        dataset_kwargs: `class_name` and arguments of the set of real images.
        num_gpus: Number of processes. More than one need a process group.
        rank: Of this process.
        device: Where to compute; None = the GPU of this rank if there is any, else the CPU.
        progress: Shows how far the computation is; None = it is silent.
        cache: Keep the statistics of real images on disk and reuse them.
        seed: Of everything that is drawn: 0 to 2**32 - 1; None = another one in every call. The
            same seed gives the same numbers for any number of processes and any batch size, up to
            what a network itself computes differently.
        detectors: Detector name -> file, see `metrics.detectors`.
        batch_size: Images per detector call; None = the metric's own number (64).
        batch_gen: Images per generator call; None = at most 4.
        data_loader_kwargs: For `torch.utils.data.DataLoader`; None = up to 3 worker processes.

    Attributes:
        provenance: What a result depends on, noted by the functions that compute it.

    Raises:
        UserError: The seed is out of range.
        ValueError: num_gpus and rank do not fit.
    """

    def __init__(
        self,
        G: nn.Module | None = None,
        G_kwargs: Mapping[str, Any] = {},
        dataset_kwargs: Mapping[str, Any] = {},
        num_gpus: int = 1,
        rank: int = 0,
        device: torch.device | str | None = None,
        progress: ProgressMonitor | None = None,
        cache: bool = True,
        seed: int | None = 0,
        detectors: Mapping[str, str] | None = None,
        batch_size: int | None = None,
        batch_gen: int | None = None,
        data_loader_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 <= rank < num_gpus:
            raise ValueError(f"rank {rank} is not one of {num_gpus} processes")
        if seed is not None and not 0 <= seed <= _MAX_SEED:
            raise UserError(f"the seed of a metric is 0 to {_MAX_SEED}, not {seed}")
        for name, size in (("batch_size", batch_size), ("batch_gen", batch_gen)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if device is None:
            device = torch.device("cuda", rank) if torch.cuda.is_available() else "cpu"
        self.G = G
        self.G_kwargs = dnnlib.EasyDict(G_kwargs)
        self.dataset_kwargs = dnnlib.EasyDict(dataset_kwargs)
        self.num_gpus = num_gpus
        self.rank = rank
        self.device = torch.device(device)
        self.progress = progress.sub() if progress is not None and rank == 0 else ProgressMonitor()
        self.cache = cache
        self.seed = seed
        self.detectors = dict(detectors or {})
        self.batch_size = batch_size
        self.batch_gen = batch_gen
        self.data_loader_kwargs = data_loader_kwargs
        self.provenance: dict[str, Any] = {}
