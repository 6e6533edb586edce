"""Find the latent whose image looks most like a given picture (Karras et al. 2020b, appendix D).

One w for all layers, and the per-pixel noise of networks that have it, are optimised with Adam so
that features of the image come close to those of the target; noise is added to w, less and less, to
explore first and refine later. The noise maps are held to what they are meant to be, white noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dnnlib
from metrics.detectors import load_detector
from metrics.pictures import to_rgb
from networks.sampling import image_shape, one_hot

Detector = Callable[..., Tensor]
"""VGG16 as StyleGAN2-ADA's file: called with float [N, 3, H, W] in [0, 255] and the keywords
resize_images=False, return_lpips=True, it gives features [N, F] whose squared distance is LPIPS."""

SPACES = ("w", "z")
_STATISTICS_SEED = 123
_STATISTICS_BATCH = 1000
_LARGEST_SIDE = 256
# VGG16 halves its input four times before the last features that it is asked for.
_SMALLEST_SIDE = 16
_SMALLEST_NOISE_SIDE = 8


def project(
    G: nn.Module,
    target: Tensor,
    *,
    num_steps: int = 1000,
    w_avg_samples: int = 10000,
    initial_learning_rate: float = 0.1,
    initial_noise_factor: float = 0.05,
    lr_rampdown_length: float = 0.25,
    lr_rampup_length: float = 0.05,
    noise_ramp_length: float = 0.75,
    regularize_noise_weight: float = 1e5,
    verbose: bool = False,
    device: torch.device | str,
    label: int | Tensor | None = None,
    space: str = "w",
    detector: Detector | None = None,
    seed: int | None = None,
    callback: Callable[[int, float, float], None] | None = None,
) -> Tensor:
    """Project a picture into the latent space of a generator.

    Args:
        G: Generator; left as it is, a copy is worked on.
        target: [C, H, W] in [0, 255], of the shape of G's images.
        num_steps: Steps of Adam (betas 0.9, 0.999).
        w_avg_samples: Number of w that the mean, where the search starts, and the spread of w are
            taken from.
        initial_learning_rate: Highest learning rate; see `learning_rate_ramp`.
        initial_noise_factor: Noise added to w at the start, relative to the spread of w.
        lr_rampdown_length: Share of the steps in which the learning rate falls, at the end.
        lr_rampup_length: Share of the steps in which it rises, at the start.
        noise_ramp_length: Share of the steps that noise is added to w in.
        regularize_noise_weight: Weight of `noise_regularization` in the loss.
        verbose: Print a line per step.
        device: Where to compute.
        label: Class, or its label vector [c_dim]; needed by conditional networks only. Mean and
            spread are those of the class.
        space: "w"; or "z" = search among the w that the mapping network can give.
        detector: See `Detector`; None = `metrics.detectors.load_detector("vgg16")`.
        seed: Of the noise; None = torch's own generator.
        callback: Called after each step with the number of steps done, distance and loss.

    Returns:
        float32 [num_steps, num_ws, w_dim] on the device: ws after each step; the last is the
        result.

    Raises:
        ValueError: Wrong shape of target or label, no label for a conditional network, unknown
            space or less than one step.
        dnnlib.UserError: The network's images are not finite.
        metrics.detectors.DetectorUnavailable: No detector was given and none is to be had.
    """
    if space not in SPACES or num_steps < 1:
        raise ValueError(f"space must be w or z and num_steps positive: {space!r}, {num_steps}")
    if tuple(target.shape) != image_shape(G):
        raise ValueError(f"target has shape {list(target.shape)}, not {list(image_shape(G))}")
    device = torch.device(device)
    G = copy.deepcopy(G).eval().requires_grad_(False).to(device)
    c = _label_vector(G, label).to(device)
    detector = load_detector("vgg16", device) if detector is None else detector
    target_features = features(detector, target.unsqueeze(0).to(device, torch.float32))
    start, spread = latent_statistics(G, c, w_avg_samples, space)
    random = _Random(seed)

    latent = start.to(device).requires_grad_()
    noise_maps = [b for name, b in G.synthesis.named_buffers() if "noise_const" in name]
    for noise in noise_maps:
        noise.copy_(random.normal_like(noise)).requires_grad_()
    optimizer = torch.optim.Adam([latent, *noise_maps], betas=(0.9, 0.999))
    path = torch.zeros([num_steps, 1, G.w_dim], device=device)

    for step in range(num_steps):
        t = step / num_steps
        ramp = learning_rate_ramp(t, lr_rampdown_length, lr_rampup_length)
        optimizer.param_groups[0]["lr"] = initial_learning_rate * ramp
        scale = spread * initial_noise_factor * exploration_ramp(t, noise_ramp_length)
        ws = _to_ws(G, latent + random.normal_like(latent) * scale, c, space)
        images = to_255(G.synthesis(ws, noise_mode="const"))
        distance = (features(detector, images) - target_features).square().sum()
        if step == 0 and not distance.isfinite():
            raise dnnlib.UserError(
                "The network's images, or what the detector says of them, are not finite, so there "
                "is nothing to search for; use an earlier snapshot."
            )
        loss = distance + regularize_noise_weight * noise_regularization(noise_maps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            path[step] = _to_ws(G, latent, c, space)[0, :1]
            for noise in noise_maps:
                normalize_noise_(noise)
        if verbose:
            print(f"step {step + 1:>4d}/{num_steps}: dist {distance:<4.2f} loss {loss:<5.2f}")
        if callback is not None:
            callback(step + 1, distance.item(), loss.item())
    return path.repeat(1, G.num_ws, 1)


def learning_rate_ramp(t: float, rampdown: float, rampup: float) -> float:
    """Share of the highest learning rate: a linear rise, then constant, then half a cosine.

    Args:
        t: In [0, 1): share of the steps that is done.
        rampdown: Length of the fall, which ends at t = 1; 0 = none.
        rampup: Length of the rise, which begins at t = 0; 0 = none.
    """
    ramp = min(1.0, (1 - t) / rampdown) if rampdown > 0 else 1.0
    ramp = 0.5 - 0.5 * math.cos(ramp * math.pi)
    return ramp * min(1.0, t / rampup) if rampup > 0 else ramp


def exploration_ramp(t: float, length: float) -> float:
    """Share of the initial noise on the latent: max(0, 1 - t / length)^2; 0 for length 0."""
    return max(0.0, 1 - t / length) ** 2 if length > 0 else 0.0


def latent_statistics(
    G: nn.Module, c: Tensor, samples: int, space: str = "w"
) -> tuple[Tensor, float]:
    """Where the search starts and how far latents spread.

    The z are those of `RandomState(123)`. In Z there is no mean to start from, because only the
    direction of z matters: the start is the z whose w is nearest to the mean of w.

    Args:
        G: Generator in evaluation mode.
        c: [1, c_dim].
        samples: Number of z.
        space: "w" or "z".

    Returns:
        The start, float32 [1, 1, w_dim or z_dim] on the CPU; and sqrt(mean(|x - mean(x)|^2)) of
        the latents x.
    """
    z = np.random.RandomState(_STATISTICS_SEED).randn(samples, G.z_dim)
    parts = []
    with torch.no_grad():
        for part in torch.from_numpy(z).to(torch.float32).split(_STATISTICS_BATCH):
            ws = G.mapping(part.to(c.device), c.expand(len(part), -1))
            parts.append(ws[:, 0].cpu().to(torch.float64))
    w = torch.cat(parts)
    offset = w - w.mean(dim=0)
    if space == "z":
        nearest = int(offset.square().sum(dim=1).argmin())
        return _as_start(z[nearest]), math.sqrt(((z - z.mean(axis=0)) ** 2).sum() / samples)
    return _as_start(w.mean(dim=0)), math.sqrt(float(offset.square().sum()) / samples)


def noise_regularization(noise_maps: Sequence[Tensor]) -> Tensor | float:
    """How far noise maps are from white noise: the sum over maps, scales and both directions of
    (mean over pixels of n times n shifted by one)^2.

    Scales: the map itself, then averaged over 2 x 2 pixels as long as a side is above 8.

    Args:
        noise_maps: [R, R] each; none give 0.
    """
    total: Tensor | float = 0.0
    for noise in noise_maps:
        n = noise[None, None]
        while True:
            for axis in (3, 2):
                total = total + (n * n.roll(1, dims=axis)).mean().square()
            if min(n.shape[2:]) <= _SMALLEST_NOISE_SIDE:
                break
            n = F.avg_pool2d(n, kernel_size=2)
    return total


def normalize_noise_(noise: Tensor) -> None:
    """Give a noise map zero mean and unit power, in place."""
    noise -= noise.mean()
    noise *= noise.square().mean().rsqrt()


def to_255(images: Tensor) -> Tensor:
    """[-1, 1] to [0, 255] without rounding or clamping: what the features are taken from."""
    return (images.to(torch.float32) + 1) * 127.5


def features(detector: Detector, images: Tensor) -> Tensor:
    """Features whose squared distance says how different two pictures look.

    Args:
        detector: See `Detector`.
        images: Floating point [N, C, H, W] in [0, 255], C = 1, 3 or 4; see `to_rgb`. Larger ones
            are averaged down to a longer side of 256 pixels, as StyleGAN2-ADA does.

    Returns:
        [N, F].
    """
    images = to_rgb(images)
    height, width = images.shape[2:]
    longer = max(height, width)
    if longer > _LARGEST_SIDE:
        sides = (max(1, round(side * _LARGEST_SIDE / longer)) for side in (height, width))
        images = F.interpolate(images, size=tuple(sides), mode="area")
    shorter = min(images.shape[2:])
    if shorter < _SMALLEST_SIDE:
        images = F.interpolate(images, scale_factor=math.ceil(_SMALLEST_SIDE / shorter))
    return detector(images, resize_images=False, return_lpips=True)


def compare(detector: Detector, image: Tensor, target: Tensor) -> tuple[float, float]:
    """How alike two pictures are.

    Args:
        detector: See `Detector`.
        image: [C, H, W] in [0, 255], any dtype.
        target: Likewise, of the same shape.

    Returns:
        Distance of the features, and the peak signal to noise ratio in dB (of the colours, on
        white where transparent; infinite for equal ones).
    """
    with torch.no_grad():
        pair = torch.stack([image, target]).to(torch.float32)
        first, second = features(detector, pair)
        distance = float((first - second).square().sum())
        a, b = to_rgb(pair).cpu().to(torch.float64)
        error = float((a - b).square().mean())
    return distance, math.inf if error == 0 else 10 * math.log10(255**2 / error)


class _Random:
    """Normal numbers drawn on the CPU, so that a seed gives the same ones for every device."""

    def __init__(self, seed: int | None) -> None:
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def normal_like(self, tensor: Tensor) -> Tensor:
        """N(0, 1) of the shape, on the device and of the dtype of `tensor`."""
        return torch.randn(tensor.shape, generator=self._generator).to(tensor)


def _as_start(vector: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(vector).to(torch.float32)[None, None]


def _label_vector(G: nn.Module, label: int | Tensor | None) -> Tensor:
    """[1, c_dim]."""
    if G.c_dim == 0:
        return torch.zeros([1, 0])
    if label is None:
        raise ValueError(f"a conditional network needs a label, 0 to {G.c_dim - 1}")
    if not isinstance(label, Tensor):
        return one_hot(label, G.c_dim)
    if label.numel() != G.c_dim:
        raise ValueError(f"label has shape {list(label.shape)}, not [{G.c_dim}]")
    return label.detach().to(torch.float32).reshape(1, -1)


def _to_ws(G: nn.Module, latent: Tensor, c: Tensor, space: str) -> Tensor:
    """[1, 1, dim] of either space to ws [1, num_ws, w_dim]."""
    return G.mapping(latent[:, 0], c) if space == "z" else latent.repeat(1, G.num_ws, 1)
