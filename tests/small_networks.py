"""Small untrained generators for tests of the commands, in memory and as snapshot files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import networks
from networks.snapshot_file import write_snapshot

Z_DIM = W_DIM = 8


def make_generator(
    preset: str = "inr-gan-bil",
    *,
    c_dim: int = 0,
    img_resolution: int = 16,
    img_channels: int = 3,
    **options: Any,
) -> torch.nn.Module:
    """The same generator every time; with noise, and an average w that is not zero."""
    torch.manual_seed(0)
    G = networks.build_generator(
        preset,
        z_dim=Z_DIM,
        c_dim=c_dim,
        w_dim=W_DIM,
        img_resolution=img_resolution,
        img_channels=img_channels,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 16 * img_resolution, "channel_max": 16},
        **options,
    )
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    G.mapping.w_avg.copy_(torch.randn(W_DIM, generator=torch.Generator().manual_seed(1)))
    return G.eval().requires_grad_(False)


def snapshot(folder: Path, preset: str = "inr-gan-bil", **options: Any) -> Path:
    """The file of such a generator, written if it is not there yet."""
    path = folder / f"{preset}{'-'.join(f'{k}{v}' for k, v in options.items())}.pkl"
    if not path.exists():
        write_snapshot(str(path), {"G_ema": make_generator(preset, **options)})
    return path
