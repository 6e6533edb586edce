"""Small pictures of a large model: work and time against size (figure 17).

Skorokhodov et al., "Adversarial Generation of Continuous Images": a continuous network draws a
thumbnail directly, either by fewer samples of the same function (lod "fixed") or with a shrunk
pyramid of lattices (lod "scaled"); any other network has to draw everything and throw most away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from analysis import plots
from analysis.bench import measure
from networks import cost, sampling

WHOLE = "full + downsample"
METHODS = ("fixed", "scaled", WHOLE)


def default_sizes(G: nn.Module) -> tuple[int, ...]:
    """R/16, R/8, ..., R, from 4 pixels on."""
    longer = max(G.img_shape[1:])
    return tuple(longer >> k for k in range(4, -1, -1) if longer >> k >= 4)


def picture_size(G: nn.Module, side: int) -> tuple[int, int]:
    """(H, W) of a picture whose longer side is given."""
    height, width = G.img_shape[1:]
    longer = max(height, width)
    return max(1, round(height * side / longer)), max(1, round(width * side / longer))


def drawing(G: nn.Module, ws: Tensor, side: int, method: str) -> Callable[[], Tensor]:
    """A function that draws small pictures.

    Args:
        G: Continuous generator.
        ws: [N, num_ws, w_dim].
        side: Longer side of the pictures.
        method: One of `METHODS`.

    Returns:
        A function that returns [N, C, H, W].
    """
    size = picture_size(G, side)
    if method == WHOLE:
        return lambda: F.interpolate(G.synthesis.render(ws), size=size, mode="area")
    return lambda: G.synthesis.render(ws, size=size, lod=method)


def work(G: nn.Module, side: int, method: str) -> dict[str, Any]:
    """MACs per image of `drawing` and of the mapping network, by every convention.

    Args: as `drawing`.

    Returns:
        macs_full, macs_split, macs_paper, and `share`: macs_split relative to the whole image.
    """
    whole = cost.render_cost(G)
    layers = whole
    if method != WHOLE:
        layers = cost.render_cost(G, picture_size(G, side), lod=method)
    macs = {f"macs_{name}": cost.total(layers, name) for name in cost.CONVENTIONS}
    return {**macs, "share": cost.total(layers, "split") / cost.total(whole, "split")}


def study(
    G: nn.Module, side: int, batch: int = 1, repetitions: int = 5, seed: int = 0
) -> list[dict[str, Any]]:
    """One row per method: size, MACs, and measured seconds per image.

    Args:
        G: Continuous generator in evaluation mode.
        side: Longer side of the pictures.
        batch: Images that are drawn together.
        repetitions: Timed drawings by each method, in turns; the median counts.
        seed: Of the first image.
    """
    seeds = range(seed, seed + batch)
    label = 0 if G.c_dim else None
    ws = torch.cat([sampling.ws_of_seed(G, s, label) for s in seeds])
    with torch.inference_mode():
        steps = {method: drawing(G, ws, side, method) for method in METHODS}
        seconds = measure(steps, repetitions, sampling.device_of(G))
    height, width = picture_size(G, side)
    return [
        {
            "method": method,
            "side": side,
            "height": height,
            "width": width,
            **work(G, side, method),
            "seconds": seconds[method] / batch,
        }
        for method in METHODS
    ]


def plot(rows: Sequence[dict[str, Any]], title: str) -> Image.Image:
    """Two diagrams below each other: GMACs and milliseconds per image against the size."""
    label = "longer side in pixels"
    sides = plots.axis_over([row["side"] for row in rows], label, is_log=True, is_binary=True)
    diagrams = []
    for key, factor, label in (
        ("macs_split", 1e-9, "GMAC per image"),
        ("seconds", 1e3, "ms per image"),
    ):
        series = {
            method: [(row["side"], row[key] * factor) for row in rows if row["method"] == method]
            for method in METHODS
        }
        values = [y for points in series.values() for _, y in points]
        axis = plots.axis_over(values, label, is_log=True)
        diagrams.append(plots.line_plot(series, sides, axis, title))
    return plots.stacked(diagrams)
