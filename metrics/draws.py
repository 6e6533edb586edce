"""Random numbers that belong to samples: sample i gets the same ones in every run.

Each number is a function of the seed, the index of the sample and what it is for (counter-based
generator: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). So neither batch
size nor number of processes changes them, and the random state of a training that computes metrics
in between is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

# What numbers are drawn for; each is a stream of its own.
LATENT, LATENT_END, LABEL, POSITION, NOISE = range(5)


def generator(seed: int, purpose: int, index: int) -> np.random.Generator:
    """Return the random numbers of one sample for one purpose."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, index]))


def normal(seed: int, purpose: int, indices: Sequence[int], length: int) -> torch.Tensor:
    """Return float32 [N, length], standard normal, on the CPU."""
    rows = [generator(seed, purpose, i).standard_normal(length, np.float32) for i in indices]
    return torch.from_numpy(np.stack(rows))


def uniform(seed: int, purpose: int, indices: Sequence[int]) -> torch.Tensor:
    """Return float32 [N] in [0, 1) on the CPU."""
    values = [generator(seed, purpose, i).random(dtype=np.float32) for i in indices]
    return torch.from_numpy(np.array(values, np.float32))


def labels(seed: int, indices: Sequence[int], dataset: Any) -> torch.Tensor:
    """Return the labels of randomly chosen items of a dataset, float32 [N, label_dim]."""
    items = [int(generator(seed, LABEL, i).integers(len(dataset))) for i in indices]
    return torch.from_numpy(np.stack([dataset.get_label(item) for item in items]))


class SampleNoise(TorchFunctionMode):
    """Inside this context `torch.randn` gives every sample of the batch noise of its own.

    It makes networks with per-pixel noise (`noise_mode="random"`) reproducible. Only tensors whose
    first dimension is the batch are concerned. The numbers differ between kinds of devices.

    Args:
        seed: The seed.
        indices: Of the samples in the batch. A repeated index gets the same noise again.

    Attributes:
        used: Whether any such noise was asked for.
    """

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        super().__init__()
        self.used = False
        self._seeds = [int(generator(seed, NOISE, i).integers(2**63)) for i in indices]
        self._generators: dict[torch.device, list[torch.Generator]] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer `torch.randn`, let everything else pass."""
        kwargs = kwargs or {}
        if func is torch.randn and "generator" not in kwargs and "out" not in kwargs:
            options = dict(kwargs)
            size = options.pop("size", args[0] if args and not isinstance(args[0], int) else args)
            if len(size) > 0 and size[0] == len(self._seeds):
                device = torch.device(options.get("device") or torch.get_default_device())
                self.used = True
                rest = list(size[1:])
                return torch.stack(
                    [torch.randn(rest, generator=g, **options) for g in self._on(device)]
                )
        return func(*args, **kwargs)

    def _on(self, device: torch.device) -> list[torch.Generator]:
        if device not in self._generators:
            self._generators[device] = [
                torch.Generator(device).manual_seed(seed) for seed in self._seeds
            ]
        return self._generators[device]
