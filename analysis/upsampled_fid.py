"""FID of enlarged images against real ones of the larger size, per way of enlarging.

Skorokhodov et al., "Adversarial Generation of Continuous Images": real images of s times the
training size are compared with generated ones that interpolation enlarged, and with those that the
continuous network draws on a grid s times denser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import dnnlib
from analysis import plots
from metrics import provenance
from metrics.detectors import INCEPTION_URL
from metrics.feature_collection import (
    compute_feature_stats_for_dataset,
    compute_feature_stats_for_generator,
)
from metrics.frechet_inception_distance import frechet_distance
from metrics.options import MetricOptions
from networks.sampling import image_shape

INR = "inr"
METHODS = ("nearest", "bilinear", "bicubic", INR)
_DETECTOR_KWARGS = {"return_features": True}


class Enlarging(nn.Module):
    """A generator whose images are enlarged.

    Args:
        G: The generator; continuous for the method "inr".
        method: A name of `METHODS`.
        size: (H, W) of the images.
        lod: For "inr", see `networks.render.render_image`.
    """

    def __init__(self, G: nn.Module, method: str, size: tuple[int, int], lod: str) -> None:
        super().__init__()
        self.G = G
        self.z_dim: int = G.z_dim
        self.c_dim: int = G.c_dim
        self._method = method
        self._size = size
        self._lod = lod

    def forward(
        self, z: Tensor, c: Tensor, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Tensor:
        """Images, float32 [N, C, H, W], about [-1, 1].

        Args:
            z, c: As for the generator.
            dtype: Precision of the blocks; None = each block's own.
            kwargs: Of the mapping network.
        """
        ws = self.G.mapping(z, c, **kwargs)
        how: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        if self._method == INR:
            return self.G.synthesis.render(ws, size=self._size, lod=self._lod, **how)
        return interpolate(self.G.synthesis(ws, **how), self._size, self._method)


def interpolate(images: Tensor, size: tuple[int, int], method: str) -> Tensor:
    """Enlarge images as Pillow does: pixels are squares, the bicubic kernel has a = -1/2.

    Args:
        images: [N, C, h, w]; what a picture cannot hold, beyond [-1, 1], is cut off first.
        size: (H, W), not smaller than (h, w).
        method: "nearest", "bilinear" or "bicubic".
    """
    images = images.to(torch.float32).clamp(-1, 1)
    if method == "nearest":
        return F.interpolate(images, size, mode="nearest-exact")
    # Without antialias torch's bicubic kernel has a = -3/4; enlarging needs no filter otherwise.
    return F.interpolate(images, size, mode=method, align_corners=False, antialias=True)


def scale_of(G: nn.Module, shape: Sequence[int], source: str) -> float:
    """How many times larger than the network's images the real ones are.

    Args:
        G: Generator.
        shape: (C, H, W) of the real images.
        source: Names them in messages.

    Raises:
        dnnlib.UserError: They are not larger, or of other channels or another shape.
    """
    channels, height, width = image_shape(G)
    what = f"{source}: the images are {shape[2]}x{shape[1]}"
    if shape[0] != channels:
        raise dnnlib.UserError(
            f"{what} with {shape[0]} channels, but the network makes {channels}."
        )
    if shape[1] * width != shape[2] * height or shape[1] <= height:
        raise dnnlib.UserError(
            f"{what}, the network's {width}x{height}; real images of the larger size are needed, "
            f"for example {2 * width}x{2 * height} (dataset_tool.py --width --height)."
        )
    return shape[1] / height


def study(
    G: nn.Module,
    methods: Sequence[str],
    size: tuple[int, int],
    num_real: int | None,
    num_fake: int,
    lod: str = "fixed",
    **options: Any,
) -> tuple[dict[str, float], dict[str, Any]]:
    """FID per method; all see the same latents and classes.

    Args:
        G: Generator.
        methods: Names of `METHODS`.
        size: (H, W) of the real images.
        num_real: The most real images that are used; None = all.
        num_fake: Generated images per method.
        lod: For "inr", see `networks.render.render_image`.
        options: Of `metrics.options.MetricOptions`, other than G; dataset_kwargs is needed.

    Returns:
        Method -> FID; and what the numbers depend on, see `metrics.provenance.collect`.

    Raises:
        dnnlib.UserError: No detector, or images whose features are not finite.
    """
    opts = MetricOptions(**options)
    real = compute_feature_stats_for_dataset(
        opts, INCEPTION_URL, _DETECTOR_KWARGS, capture_mean_cov=True, max_items=num_real
    ).get_mean_cov()
    found = {}
    for method in methods:
        opts.G = Enlarging(G, method, size, lod)
        fake = compute_feature_stats_for_generator(
            opts, INCEPTION_URL, _DETECTOR_KWARGS, capture_mean_cov=True, max_items=num_fake
        ).get_mean_cov()
        found[method] = frechet_distance(*real, *fake)
    return found, dict(provenance.collect(opts))


def gain(found: Mapping[str, float]) -> float | None:
    """By which part the FID of "inr" is below the best interpolation's; None = not both there."""
    others = [value for method, value in found.items() if method != INR]
    if INR not in found or not others or min(others) <= 0:
        return None
    return 1 - found[INR] / min(others)


def plot(found: Mapping[str, float], title: str) -> Image.Image:
    """One bar per method."""
    heights = {method: max(value, 0.0) for method, value in found.items()}
    # With room for the numbers above the bars.
    axis = plots.Axis("FID", 0.0, 1.12 * max(heights.values()) or 1.0)
    return plots.bar_plot(heights, axis, title)
