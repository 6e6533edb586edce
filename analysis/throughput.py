"""Images per second of generators (table 2 of the INR-GAN paper)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import dnnlib
from analysis.bench import synchronize
from networks import sampling
from torch_utils.precision import DTYPES

MIN_WARMUP = 3


def check_precision(precision: str, device: torch.device) -> None:
    """Raises a `dnnlib.UserError` where a precision would silently be another one."""
    if precision == "fp16" and device.type == "cpu":
        raise dnnlib.UserError(
            f"--precision=fp16 runs in float32 on the device {device}; use bf16 there."
        )


def forward(G: nn.Module, batch: int, precision: str) -> Callable[[], torch.Tensor]:
    """A function that draws a batch from the same latents each time, mapping network included.

    Args:
        G: Any generator in evaluation mode.
        batch: Number of images.
        precision: A name of `torch_utils.precision.DTYPES`, of all blocks.
    """
    device = sampling.device_of(G)
    z = sampling.latents(range(batch), G.z_dim).to(device)
    c = sampling.one_hot(0 if G.c_dim else None, G.c_dim, batch).to(device)
    options: dict[str, Any] = {"dtype": DTYPES[precision]}
    if precision == "fp32":
        options = {"force_fp32": True}
    return lambda: G(z, c, noise_mode="const", **options)


def throughput(
    G: nn.Module, batch: int, precision: str, warmup: int = MIN_WARMUP, repeats: int = 10
) -> dict[str, Any]:
    """Measures one combination: n batch / sum(t), the device's queue empty around each drawing.

    Args:
        G, batch, precision: As `forward`.
        warmup: Drawings before the clock starts.
        repeats: n.

    Returns:
        precision, batch, images_per_second, seconds (of every drawing).
    """
    device = sampling.device_of(G)
    draw = forward(G, batch, precision)
    seconds = []
    with torch.inference_mode():
        for _ in range(warmup):
            draw()
        for _ in range(repeats):
            synchronize(device)
            start = time.perf_counter()
            draw()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
    rate = repeats * batch / sum(seconds)
    return {
        "precision": precision,
        "batch": batch,
        "images_per_second": rate,
        "seconds": seconds,
    }
