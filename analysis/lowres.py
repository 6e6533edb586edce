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


def drawing(
    G: nn.Module, ws: Tensor, side: int, method: str, dtype: torch.dtype | None = None
) -> Callable[[], Tensor]:
    """A function that draws small pictures.

    Args:
        G: Continuous generator.
        ws: [N, num_ws, w_dim].
        side: Longer side of the pictures.
        method: One of `METHODS`.
        dtype: Precision of the blocks; None = each block's own.

    Returns:
        A function that returns [N, C, H, W].
    """
    size = picture_size(G, side)
    if method == WHOLE:
        return lambda: F.interpolate(G.synthesis.render(ws, dtype=dtype), size=size, mode="area")
    return lambda: G.synthesis.render(ws, size=size, lod=method, dtype=dtype)


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
    G: nn.Module,
    sides: Sequence[int],
    batch: int = 1,
    repetitions: int = 5,
    seed: int = 0,
    on_drawing: Callable[[], object] = lambda: None,
    dtype: torch.dtype | None = None,
) -> list[dict[str, Any]]:
    """One row per size and method: MACs, and measured seconds per image.

    All sizes and methods take turns, so that a machine that gets slower slows all of them.

    Args:
        G: Continuous generator in evaluation mode.
        sides: Longer sides of the pictures.
        batch: Images that are drawn together.
        repetitions: Timed drawings of each kind, after one that is not; the median counts.
        seed: Of the first image.
        on_drawing: Called after each of the `num_drawings` drawings.
        dtype: Precision of the blocks; None = each block's own.
    """
    label = 0 if G.c_dim else None
    ws = torch.cat([sampling.ws_of_seed(G, s, label) for s in range(seed, seed + batch)])

    def step(side: int, method: str) -> Callable[[], None]:
        draw = drawing(G, ws, side, method, dtype)

        def drawn() -> None:
            draw()
            on_drawing()

        return drawn

    kinds = {f"{side} {method}": (side, method) for side in sides for method in METHODS}
    with torch.inference_mode():
        steps = {name: step(*kind) for name, kind in kinds.items()}
        seconds = measure(steps, repetitions, sampling.device_of(G))
    rows = []
    for name, (side, method) in kinds.items():
        height, width = picture_size(G, side)
        row = {"method": method, "side": side, "height": height, "width": width}
        rows.append({**row, **work(G, side, method), "seconds": seconds[name] / batch})
    return rows


def num_drawings(sides: Sequence[int], repetitions: int) -> int:
    """How many pictures `study` draws."""
    return len(sides) * len(METHODS) * (repetitions + 1)


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
