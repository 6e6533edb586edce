"""A tiny set of pictures, a tiny generator and small metrics, for tests of whole computations."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import networks
from metrics import (
    frechet_inception_distance,
    inception_score,
    kernel_inception_distance,
    perceptual_path_length,
    precision_recall,
)
from metrics.metric_main import register_metric
from metrics.options import MetricOptions

SIZE = 16
NUM_CLASSES = 3
SMALL_METRICS = ("small_fid", "small_kid", "small_pr", "small_is", "small_ppl_w", "small_ppl_z")


def write_pictures(
    path: Path, channels: int = 3, count: int = 21, labels: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Write pictures into a folder, or a zip archive if that is the suffix.

    Returns:
        Arguments of the data set, as `dataset_kwargs`.
    """
    random = np.random.RandomState(seed)
    files = {}
    for index in range(count):
        small = random.randint(0, 256, [4, 4, channels], np.uint8)
        pixels = small.repeat(SIZE // 4, axis=0).repeat(SIZE // 4, axis=1)
        buffer = BytesIO()
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(buffer, "png")
        files[f"{index:03d}.png"] = buffer.getvalue()
    content: dict[str, Any] = {"labels": None, "provenance": {"resize_filter": "lanczos"}}
    if labels:
        content["labels"] = [[name, i % NUM_CLASSES] for i, name in enumerate(sorted(files))]
    files["dataset.json"] = json.dumps(content).encode()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
    return {
        "class_name": "training.dataset.ImageFolderDataset",
        "path": str(path),
        "use_labels": labels,
        "max_size": None,
        "xflip": False,
    }


def make_generator(channels: int = 3, c_dim: int = 0, preset: str = "stylegan2") -> nn.Module:
    """A generator with the same weights in every run, noise included, and varied images."""
    state = torch.get_rng_state()
    torch.manual_seed(1)
    G = networks.build_generator(
        preset,
        z_dim=8,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=SIZE,
        img_channels=channels,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 128, "channel_max": 8},
    )
    with torch.no_grad():
        for name, param in G.named_parameters():
            if name.endswith("noise_strength"):
                param.fill_(0.5)
    torch.set_rng_state(state)
    return G.eval().requires_grad_(False)


@register_metric
def small_fid(opts: MetricOptions) -> dict[str, float]:
    """All real images, 19 fakes."""
    return {"small_fid": frechet_inception_distance.compute_fid(opts, None, 19)}


@register_metric
def small_kid(opts: MetricOptions) -> dict[str, float]:
    """All real images, 19 fakes, 5 subsets of 10."""
    return {"small_kid": kernel_inception_distance.compute_kid(opts, None, 19, 5, 10)}


@register_metric
def small_pr(opts: MetricOptions) -> dict[str, float]:
    """All real images, 19 fakes, in blocks that do not divide them."""
    precision, recall = precision_recall.compute_pr(opts, None, 19, 3, 8, 5)
    return {"small_pr_precision": precision, "small_pr_recall": recall}


@register_metric
def small_is(opts: MetricOptions) -> dict[str, float]:
    """19 fakes in 3 splits."""
    mean, std = inception_score.compute_is(opts, 19, 3)
    return {"small_is_mean": mean, "small_is_std": std}


@register_metric
def small_ppl_w(opts: MetricOptions) -> dict[str, float]:
    """7 paths; steps long enough for float32 and a tiny network."""
    value = perceptual_path_length.compute_ppl(opts, 7, 1e-2, "w", "end", crop=True)
    return {"small_ppl_w": value}


@register_metric
def small_ppl_z(opts: MetricOptions) -> dict[str, float]:
    """As small_ppl_w, on the whole path between two z."""
    value = perceptual_path_length.compute_ppl(opts, 7, 1e-2, "z", "full", crop=False)
    return {"small_ppl_z": value}
