"""Perceptual Path Length (Karras et al., "A Style-Based Generator Architecture for Generative
Adversarial Networks", 2019, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dnnlib import UserError
from metrics import draws, exchange
from metrics.detectors import VGG16_URL, Detector
from metrics.feature_collection import Sampler, load_detector_for, next_indices
from metrics.options import MetricOptions
from metrics.pictures import to_rgb
from metrics.provenance import generator_dtype

_DETECTOR_SIZE = 256
# Arguments of G(...) that belong to its mapping; the rest goes to its synthesis.
_MAPPING_ARGUMENTS = ("truncation_psi", "truncation_cutoff", "skip_w_avg_update", "update_emas")


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Interpolate on the unit sphere.

    Args:
        a, b: [N, D], not zero; only their directions count.
        t: [N, 1], 0 = a, 1 = b.

    Returns:
        [N, D] of length 1.
    """
    a = F.normalize(a, dim=-1)
    b = F.normalize(b, dim=-1)
    cosine = (a * b).sum(dim=-1, keepdim=True).clamp(-1, 1)
    angle = t * torch.acos(cosine)
    across = F.normalize(b - cosine * a, dim=-1)
    return F.normalize(a * torch.cos(angle) + across * torch.sin(angle), dim=-1)


def mean_within_percentiles(values: np.ndarray, low: float = 1, high: float = 99) -> float:
    """Return the mean of the values from one percentile to another, outliers left out.

    Args:
        values: [N].
        low, high: Percentiles, rounded down and up to values that occur.
    """
    lowest = np.percentile(values, low, method="lower")
    highest = np.percentile(values, high, method="higher")
    return float(values[(values >= lowest) & (values <= highest)].mean())


class PathSampler:
    """Computes LPIPS(image(t), image(t + epsilon)) / epsilon^2 on random paths between latents.

    Noise inputs are drawn anew for each path and are the same at both ends; networks without noise
    just have none. (StyleGAN2-ADA draws once per batch of two, which makes pairs of results
    depend on each other.)

    Args:
        opts: G, G_kwargs, seed, dataset_kwargs (labels), device.
        detector: VGG16.
        epsilon: Length of the step.
        space: "w" interpolates linearly between mapped latents, "z" on the sphere.
        sampling: "full" takes t from [0, 1), "end" takes t = 0.
        crop: Look at the middle of faces only: rows 3/8 to 7/8, columns 2/8 to 6/8.
    """

    def __init__(
        self,
        opts: MetricOptions,
        detector: Detector,
        epsilon: float,
        space: str,
        sampling: str,
        crop: bool,
    ) -> None:
        if space not in ("z", "w") or sampling not in ("full", "end"):
            raise ValueError(
                f"space {space!r} is not z or w, or sampling {sampling!r} not full/end"
            )
        self._sampler = Sampler(opts)
        self._detector = detector
        self._seed = opts.seed
        self._epsilon = epsilon
        self._space = space
        self._sampling = sampling
        self._crop = crop
        kwargs: Mapping[str, Any] = opts.G_kwargs
        self._mapping_kwargs = {k: v for k, v in kwargs.items() if k in _MAPPING_ARGUMENTS}
        # What the gradient is taken of must be smooth: float32.
        self._synthesis_kwargs: dict[str, Any] = {"noise_mode": "random", "force_fp32": True}
        self._synthesis_kwargs |= {k: v for k, v in kwargs.items() if k not in _MAPPING_ARGUMENTS}
        opts.provenance["dtype"] = generator_dtype(
            self._sampler.G, self._synthesis_kwargs, opts.device
        )

    @torch.no_grad()
    def __call__(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the values of the samples, float32 [N]."""
        near, far = self._ws(indices)
        with self._sampler.noise([*indices, *indices]):
            images = self._sampler.G.synthesis(torch.cat([near, far]), **self._synthesis_kwargs)
        finite = torch.isfinite(images).all()
        images = self._prepared(images.to(torch.float32))
        features = self._detector(images, resize_images=False, return_lpips=True)
        near_features, far_features = features.chunk(2)
        distance = (near_features - far_features).square().sum(dim=1) / self._epsilon**2
        return torch.where(finite, distance, math.nan)

    def _ws(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """ws at t and at t + epsilon, [N, num_ws, w_dim] each."""
        sampler = self._sampler
        start = sampler.latents(indices, draws.LATENT)
        end = sampler.latents(indices, draws.LATENT_END)
        t = torch.zeros(len(indices), 1, device=start.device)
        if self._sampling == "full":
            t = draws.uniform(self._seed, draws.POSITION, indices)[:, None].to(start.device)
        if self._space == "z":
            z0, z1 = slerp(start, end, t), slerp(start, end, t + self._epsilon)
            w0, w1 = self._map(z0, z1, indices)
            return w0, w1
        w_start, w_end = self._map(start, end, indices)
        t = t[:, :, None]
        return w_start.lerp(w_end, t), w_start.lerp(w_end, t + self._epsilon)

    def _map(
        self, z0: torch.Tensor, z1: torch.Tensor, indices: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        c = self._sampler.labels(indices)
        ws = self._sampler.G.mapping(torch.cat([z0, z1]), torch.cat([c, c]), **self._mapping_kwargs)
        w0, w1 = ws.chunk(2)
        return w0, w1

    def _prepared(self, images: torch.Tensor) -> torch.Tensor:
        """Images as VGG16 takes them: cropped, shrunk to about 256, [0, 255], RGB."""
        # From the size before the crop, as in StyleGAN2-ADA: published numbers depend on it.
        factor = self._sampler.G.img_resolution // _DETECTOR_SIZE
        if self._crop:
            height, width = images.shape[2:]
            images = images[
                :, :, height * 3 // 8 : height * 7 // 8, width * 2 // 8 : width * 6 // 8
            ]
        if factor > 1:
            images = F.avg_pool2d(images, factor)
        return to_rgb((images + 1) * (255 / 2))


def compute_ppl(
    opts: MetricOptions,
    num_samples: int,
    epsilon: float,
    space: str,
    sampling: str,
    crop: bool,
    batch_size: int = 2,
    jit: bool = False,
) -> float:
    """Compute the perceptual path length; NaN in the ranks other than 0.

    Args:
        opts: What is measured. `opts.batch_gen` wins over `batch_size`.
        num_samples: Number of paths.
        epsilon, space, sampling, crop: See `PathSampler`.
        batch_size: Paths per generator call; each takes two images.
        jit: Without meaning; StyleGAN2-ADA could trace the generator.

    Raises:
        UserError: The generator gives values that are not finite.
    """
    detector = load_detector_for(opts, VGG16_URL)
    sampler = PathSampler(opts, detector, epsilon, space, sampling, crop)
    opts.provenance["num_fake"] = num_samples
    progress = opts.progress.sub("ppl sampling", num_samples)
    distances: list[np.ndarray] = []
    done = 0
    while done < num_samples:
        indices = next_indices(done, num_samples, opts.batch_gen or batch_size, opts)
        values = exchange.interleave(sampler(indices), opts.num_gpus).cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError("the generator's images hold values that are not finite")
        distances.append(values)
        done += len(values)
        progress.update(min(done, num_samples))
    if opts.rank != 0:
        return math.nan
    return mean_within_percentiles(np.concatenate(distances)[:num_samples].astype(np.float64))
