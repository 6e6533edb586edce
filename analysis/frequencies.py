"""Which frequencies of the coordinates each block reads (figure 16).

Skorokhodov et al., "Adversarial Generation of Continuous Images". Blocks read sines and cosines of
W p + b. Fixed rows of W are the same for all images, predicted ones come from w. Frequencies are
given in cycles per image: how often a wave goes up and down along the shorter side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import dnnlib
from analysis import plots
from analysis.subjects import Subject
from networks.hyper import HyperSynthesis

# Powers of 2 and of the diagonals' sqrt(2) lie in the middle of bins.
_BINS_PER_OCTAVE = 4
_QUANTILES = (5, 25, 50, 75, 95)
# A row of almost 0 is a constant; it counts for the lowest bin.
_LOWEST = 2.0**-4


@dataclass(frozen=True)
class BlockFrequencies:
    """Frequencies of one block in cycles per image.

    Attributes:
        name: Of the block.
        lattice: Cells along the longer side at training size; half of it is the highest frequency
            that its grid can show.
        fixed: float64 [k], of the rows that all images share.
        predicted: float64 [images, k'], of the rows that come from w.
    """

    name: str
    lattice: int
    fixed: np.ndarray
    predicted: np.ndarray


def block_frequencies(G: nn.Module, subjects: Iterable[Subject]) -> list[BlockFrequencies]:
    """The frequencies of every block that reads any.

    Args:
        G: Continuous generator.
        subjects: The images whose predicted rows are looked at, at least one.

    Raises:
        dnnlib.UserError: No block reads sines of the coordinates.
    """
    synthesis = G.synthesis
    scale = cycles_per_radian(synthesis)
    blocks = synthesis.blocks()
    fixed = [torch.cat(_fixed_rows(block)).double() for block in blocks]
    predicted: list[list[Tensor]] = [[] for _ in blocks]
    for subject in subjects:
        with torch.inference_mode():
            theta = synthesis.compose(subject.ws)
        for rows, weights in zip(predicted, theta):
            rows.append(_predicted_rows(weights))
    found = []
    for block, rows, of_images in zip(blocks, fixed, predicted):
        shared, own = (_norms(part) * scale for part in (rows, torch.stack(of_images)))
        if shared.size or own.size:
            found.append(BlockFrequencies(_name(synthesis, block), block.resolution, shared, own))
    if not found:
        raise dnnlib.UserError(
            "This network has no frequencies to look at: no block reads sines of the coordinates."
        )
    return found


def cycles_per_radian(synthesis: nn.Module) -> float:
    """Cycles per image of a frequency of 1 radian per unit of the network's coordinates.

    Coordinates go from -1 to 1 along the shorter side, in the paper's models from 0 to 1.
    """
    return 1 / (2 * math.pi) if isinstance(synthesis, HyperSynthesis) else 1 / math.pi


def summary(found: BlockFrequencies) -> dict[str, Any]:
    """What `frequencies.json` says of a block: all fixed rows, quantiles of the predicted ones."""
    predicted = None
    if found.predicted.size:
        values = np.percentile(found.predicted, _QUANTILES)
        predicted = {f"percentile_{q}": float(v) for q, v in zip(_QUANTILES, values)}
        predicted["rows_per_image"] = found.predicted.shape[1]
    return {
        "block": found.name,
        "lattice": found.lattice,
        "fixed": sorted(found.fixed.tolist()),
        "predicted": predicted,
    }


def edges_over(found: Sequence[BlockFrequencies]) -> np.ndarray:
    """Edges of logarithmic bins, a quarter of an octave each, that hold all frequencies."""
    values = np.concatenate([part.ravel() for f in found for part in (f.fixed, f.predicted)])
    steps = np.log2(values.clip(_LOWEST)) * _BINS_PER_OCTAVE
    middles = np.arange(round(steps.min()), round(steps.max()) + 1)
    return 2.0 ** (np.append(middles - 0.5, middles[-1] + 0.5) / _BINS_PER_OCTAVE)


def counts(values: np.ndarray, edges: np.ndarray, images: int = 1) -> np.ndarray:
    """Rows per bin and image, float64 [bins]."""
    return np.histogram(values.clip(_LOWEST), edges)[0] / images


def plot(found: Sequence[BlockFrequencies]) -> Image.Image:
    """One histogram per block below each other, all over the same frequencies."""
    edges = edges_over(found)
    x_axis = plots.Axis("cycles per image", edges[0], edges[-1], is_log=True, is_binary=True)
    diagrams = []
    for block in found:
        series = {
            "fixed": counts(block.fixed, edges),
            "predicted": counts(block.predicted, edges, max(1, len(block.predicted))),
        }
        y_axis = plots.axis_over(sum(series.values()), "rows per image")
        title = f"{block.name}, lattice {block.lattice}"
        diagrams.append(plots.histogram(series, edges, x_axis, y_axis, title))
    return plots.stacked(diagrams)


def _name(synthesis: nn.Module, block: nn.Module) -> str:
    """The attribute that holds a block; several published ones live on one lattice."""
    return next(name for name, module in synthesis.named_children() if module is block)


def _norms(rows: Tensor) -> np.ndarray:
    return rows.double().norm(dim=-1).cpu().numpy()


def _fixed_rows(block: nn.Module) -> list[Tensor]:
    """The rows [k, 2] that a block of any kind shares between images, at least one part."""
    none = torch.zeros(0, 2)
    if hasattr(block, "octaves"):  # networks.inr_block
        axis = (2.0 ** torch.arange(block.octaves)) * (math.pi / 2)
        zero = torch.zeros_like(axis)
        rows = block.shared_rows.detach().cpu()
        return [torch.stack([axis, zero], 1), torch.stack([zero, axis], 1), rows]
    fuser = block.fuser() if hasattr(block, "fuser") else None  # networks.published
    names = ("log_basis", "random_basis", "shared_basis")
    return [none] + [getattr(fuser, n).detach().cpu() for n in names if hasattr(fuser, n)]


def _predicted_rows(weights: Any) -> Tensor:
    """The rows [k, 2] in the weights of one image's block, float32 on the CPU."""
    rows = getattr(weights, "rows", None)
    if getattr(weights, "predicted", None) is not None:
        rows = weights.predicted[0]
    return torch.zeros(0, 2) if rows is None else rows[0].float().cpu()
