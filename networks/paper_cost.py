"""The cost model behind table 1 of the INR-GAN paper, as formulas. Imports no torch.

Skorokhodov et al., "Adversarial Generation of Continuous Images". The published GMACs count

* the trunk: hidden layers, each from the width before it to its own, at the resolution of its
  block (a Fourier projection, to-RGB and whatever reads concatenated coordinates are left out;
  the layer from 2 coordinates is counted where there are no Fourier features);
* the hypernetwork: mapping 512 -> 1024 -> 1024 -> 1024, then 1024 -> N, where N values per image
  are emitted. The latent-conditioned row projects its latent once per image.

They are sums over lattices, widths and layer counts of the paper, not over a module of this
project. The published numbers of parameters follow from the same structure for single-scale rows;
for the multi-scale rows no one structure gives both columns, so the parameters are those of the
structure that fits best. Rows 2 and 3 come out as published if "M" means 2^20.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

RANK = 10
_Z_DIM = _WIDTH = 512
_HYPER_WIDTH = 1024
_UNIT = _WIDTH * _WIDTH
_INJECTIONS = 3


class PaperLine(NamedTuple):
    """One line of the sum.

    Attributes:
        name: What is counted.
        points: (rows, columns) at which it is evaluated; None = once per image.
        macs: Multiply-accumulates per image.
        params: Learned numbers.
    """

    name: str
    points: tuple[int, int] | None
    macs: int
    params: int


class PaperBlock(NamedTuple):
    """A block of a multi-scale generator, for counting.

    Attributes:
        layers: Number of layers.
        width: Units of each.
        features: Number of Fourier features (sines and cosines).
        has_rgb: Whether it has a to-RGB layer.
    """

    layers: int
    width: int
    features: int
    has_rgb: bool


def fmm_values(inputs: int, outputs: int, rank: int = RANK) -> int:
    """Values that the hypernetwork emits for an FMM layer: A, B and the bias."""
    return rank * (inputs + outputs) + outputs


def direct_values(inputs: int, outputs: int) -> int:
    """Values that the hypernetwork emits for a layer without factorisation."""
    return inputs * outputs + outputs


def mapping_params() -> int:
    """The hypernetwork without its output layer: 3 dense layers and 2 gains of residuals."""
    return _mapping_macs() + 3 * _HYPER_WIDTH + 2


def hypernetwork_macs(num_values: int) -> int:
    """MACs of mapping z to so many emitted values."""
    return _mapping_macs() + _HYPER_WIDTH * num_values


def generator_params(num_values: int, num_shared: int) -> int:
    """Parameters of a generator that emits so many values and shares so many weights."""
    return mapping_params() + (_HYPER_WIDTH + 1) * num_values + num_shared


def multi_scale_values(blocks: Sequence[PaperBlock], skip_coords: bool) -> tuple[int, int]:
    """Counts what a multi-scale generator with FMM layers is made of.

    Args:
        blocks: Coarse to fine. From the second on a block begins with a connector: one layer on
            the block below, one on the Fourier features, added.
        skip_coords: Whether all layers but a block's first read the Fourier features, too; those
            after a connector all do.

    Returns:
        (N, S): emitted values, shared weights.
    """
    values = shared = 0
    below = None
    for block in blocks:
        inputs = [block.width] * block.layers
        if below is None:
            inputs[0] = block.features
        if skip_coords:
            first = 1 if below is None else 0
            inputs[first:] = [block.width + block.features] * (block.layers - first)
        if below is not None:
            inputs += [below, block.features]
        values += block.features + sum(fmm_values(i, block.width) for i in inputs)
        values += 3 * block.width + 3 if block.has_rgb else 0
        shared += sum(i * block.width for i in inputs)
        below = block.width
    return values, shared


def trunk_blocks(resolution: int) -> list[tuple[int, int, int]]:
    """(resolution, layers, width) of each block in the published GMACs of the multi-scale rows.

    The paper has 128, 256 and 1024; other resolutions follow the same rule.
    """
    halvings = (3, 2, 1, 0) if resolution >= 1024 else (1, 0)
    blocks = []
    for side in (max(1, resolution >> k) for k in halvings):
        layers = 4 if side <= 256 else 2
        width = 512 if side <= 128 else 256 if side <= 256 else 64 if side <= 512 else 32
        blocks.append((side, layers, width))
    return blocks


def paper_cost(preset: str, resolution: int) -> list[PaperLine]:
    """One row of the paper's table 1.

    Args:
        preset: A name of `PAPER_PRESETS`.
        resolution: Side of the image.

    Returns:
        The lines of the sum.

    Raises:
        ValueError: The paper has no such row.
    """
    if preset not in PAPER_PRESETS:
        raise ValueError(f"the paper's table has no row for {preset}: {', '.join(PAPER_PRESETS)}")
    if preset == "inr-latent":
        return _latent_lines(resolution)
    if preset == "inr-gan-vanilla":
        return _multi_scale_lines(resolution)
    return _single_scale_lines(preset, resolution)


PAPER_PRESETS = {
    "inr-latent": "Latent-code conditioning",
    "inr-hyper": "+ Hypernetwork-based generator",
    "inr-fourier": "+ Fourier features",
    "inr-fmm": "+ FMM",
    "inr-gan-vanilla": "+ Multi-scale INR",
}
"""Presets with a row of their own in the paper's table, and the row's name. (The row of StyleGAN2
is counted from the module.)"""

PUBLISHED_GMACS: dict[str, dict[int, float]] = {
    "inr-latent": {128: 30.09, 256: 120.33, 1024: 1925.22},
    "inr-hyper": {128: 23.54, 256: 88.01, 1024: 1377.52},
    "inr-fourier": {128: 28.02, 256: 105.34, 1024: 1651.52},
    "inr-fmm": {128: 25.87, 256: 103.19, 1024: 1649.37},
    "inr-gan-vanilla": {128: 21.58, 256: 38.76, 1024: 47.35},
    "stylegan2": {256: 84.36, 1024: 143.18},
}
"""What the paper reports, in 10^9 MACs per image."""


def _mapping_macs() -> int:
    return _Z_DIM * _HYPER_WIDTH + 2 * _HYPER_WIDTH**2


def _hypernetwork_lines(num_values: int, num_shared: int) -> list[PaperLine]:
    output = (_HYPER_WIDTH + 1) * num_values
    lines = [
        PaperLine("mapping", None, _mapping_macs(), mapping_params()),
        PaperLine(f"hypernetwork output, {num_values:,}", None, _HYPER_WIDTH * num_values, output),
    ]
    return lines + ([PaperLine("shared weights", None, 0, num_shared)] if num_shared else [])


def _trunk_line(index: int, side: int, inputs: int, outputs: int, params: int = 0) -> PaperLine:
    name = f"layer {index}: {inputs} -> {outputs}"
    return PaperLine(name, (side, side), inputs * outputs * side**2, params)


def _latent_lines(side: int) -> list[PaperLine]:
    """8 layers of 512 units; the latent of 512 joins each, as if appended to its input."""
    mapping = mapping_params() + _HYPER_WIDTH * _WIDTH + _WIDTH
    lines = [PaperLine("mapping", None, _mapping_macs() + _HYPER_WIDTH * _WIDTH, mapping)]
    for index in range(1, 9):
        inputs = 2 if index == 1 else _WIDTH
        params = direct_values(inputs + _WIDTH, _WIDTH)
        lines.append(_trunk_line(index, side, inputs, _WIDTH, params))
    lines.append(PaperLine("latent into the layers", None, 8 * _UNIT, 0))
    return [*lines, PaperLine("to-RGB", (side, side), 0, direct_values(_WIDTH, 3))]


def _single_scale_lines(preset: str, side: int) -> list[PaperLine]:
    """6 layers, and 3 more that inject the coordinates (these only in the parameters)."""
    inputs = [_WIDTH] * 6
    values, shared = direct_values(_WIDTH, 3), 0
    if preset == "inr-hyper":
        inputs[0] = 2
    else:
        values += _WIDTH  # the frequencies of 512 Fourier features
    for i in [*inputs, *[_WIDTH] * _INJECTIONS]:
        if preset == "inr-fmm":
            values += fmm_values(i, _WIDTH)
            shared += i * _WIDTH
        else:
            values += direct_values(i, _WIDTH)
    trunk = [_trunk_line(index, side, i, _WIDTH) for index, i in enumerate(inputs, 1)]
    return [*_hypernetwork_lines(values, shared), *trunk]


def _multi_scale_lines(resolution: int) -> list[PaperLine]:
    if resolution >= 1024:  # the sizes in the paper's text
        sizes = ((3, 512, 512), (3, 512, 512), (2, 128, 64), (2, 32, 16))
        blocks = [PaperBlock(*size, has_rgb=True) for size in sizes]
    else:
        blocks = [PaperBlock(3, 512, 512, False), PaperBlock(4, 512, 512, True)]
    lines = _hypernetwork_lines(*multi_scale_values(blocks, skip_coords=False))
    below = None
    for side, layers, width in trunk_blocks(resolution):
        for index in range(1, layers + 1):
            inputs = width if below is None or index > 1 else below
            line = _trunk_line(index, side, inputs, width)
            lines.append(line._replace(name=f"block {side}, {line.name}"))
        below = width
    return lines
