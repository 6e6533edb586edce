"""Work and parameters of generators, layer by layer, counted from their modules.

One multiply-accumulate (MAC) is one product of a matrix product or convolution, per image; biases,
activations, normalisations, sines and interpolation weights are not counted. Three ways to count:

* full: the plain order of operations. Every layer of a continuous network upsamples, concatenates
  the coordinate features and does one product per point (but for connectors of the paper's model,
  whose definition multiplies before it upsamples). A transposed convolution does kernel^2 I O
  products per input pixel, the low-pass filter 16 per output value.
* split: the work really done. Features of the lattice below are multiplied there and upsampled
  afterwards, W [up(x); e] = up(W_x x) + W_e e.
* paper: the convention behind table 1 of the INR-GAN paper, as far as it applies to a module: only
  the layers that hand on features (the trunk), only their feature inputs, plus what predicts the
  weights; convolutions at their output resolution. (`networks.paper_cost` has the paper's models.)

All three contain the mapping network and, but for `paper`, the composition of the weights. Modules
on the meta device are counted like any other, so that billions of parameters cost nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from fractions import Fraction

from torch import nn

from networks.lattice import UNIT_SQUARE, axis_levels, grid_points, scaled_lattices, snap
from networks.point_layers import (
    LayerCost,
    image_costs,
    mapping_costs,
    point_layers,
    stylegan2_costs,
)
from networks.stylegan2 import SynthesisNetwork

CONVENTIONS = ("full", "split", "paper")


def generator_cost(G: nn.Module) -> list[LayerCost]:
    """Costs of drawing one image at training size, layer by layer.

    Args:
        G: A generator of `networks.build_generator`, on any device.

    Raises:
        ValueError: A synthesis network of another kind.
    """
    if isinstance(G.synthesis, SynthesisNetwork):
        layers = list(stylegan2_costs(G.synthesis))
    else:
        layers = synthesis_cost(G.synthesis, training_shapes(G.synthesis))
    return [*mapping_costs(G.mapping), *layers]


def render_cost(
    G: nn.Module,
    size: int | tuple[int, int] | None = None,
    region: Sequence[int | float | Fraction] = UNIT_SQUARE,
    lod: str = "fixed",
) -> list[LayerCost]:
    """Costs of the mapping network and of `G.synthesis.render(ws, region, size, lod)`.

    Constants that `render` measures on the training grid cost a drawing of it.

    Args:
        G: A continuous generator.
        size, region, lod: As `networks.render.render_image`. The picture is taken as one tile.
    """
    synthesis = G.synthesis
    layers = synthesis_cost(synthesis, render_shapes(synthesis, size, region, lod))
    if _measures(synthesis):
        measured = synthesis_cost(synthesis, training_shapes(synthesis))
        layers = [_with_measuring(layer, once) for layer, once in zip(layers, measured)]
    return [*mapping_costs(G.mapping), *layers]


def training_shapes(synthesis: nn.Module) -> list[tuple[int, int]]:
    """(rows, columns) of points at which each level is evaluated to draw the training grid."""
    rows, cols = synthesis.training_levels()
    return [(len(row.points), len(col.points)) for row, col in zip(rows, cols)]


def render_shapes(
    synthesis: nn.Module,
    size: int | tuple[int, int] | None = None,
    region: Sequence[int | float | Fraction] = UNIT_SQUARE,
    lod: str = "fixed",
) -> list[tuple[int, int]]:
    """(rows, columns) of points at which each level is evaluated to render a region.

    Args: as `networks.render.render_image`.
    """
    if size is None:
        size = synthesis.img_shape[1:]
    height, width = (size, size) if isinstance(size, int) else size
    x0, y0, x1, y1 = (snap(value) for value in region)
    axes = []
    ranges = ((y0, y1, height), (x0, x1, width))
    for (start, stop, count), lattices in zip(ranges, synthesis.lattices()):
        if lod == "scaled":
            lattices = scaled_lattices(lattices, abs(count / (stop - start)))
        points = grid_points(start, stop, count, synthesis.sampling.offset)
        axes.append(axis_levels(points, lattices, synthesis.sampling))
    return [(len(row.points), len(col.points)) for row, col in zip(*axes)]


def synthesis_cost(synthesis: nn.Module, shapes: Sequence[tuple[int, int]]) -> list[LayerCost]:
    """Costs of a continuous synthesis network, level k evaluated at shapes[k] points."""
    layers = [layer.cost(shapes) for layer in point_layers(synthesis)]
    return [*image_costs(synthesis), *layers]


def total(layers: Iterable[LayerCost], convention: str = "full") -> int:
    """MACs of all layers by one of the `CONVENTIONS`."""
    return sum(getattr(layer, convention) for layer in layers)


def num_params(layers: Iterable[LayerCost]) -> int:
    """Learned numbers of all layers."""
    return sum(layer.params for layer in layers)


def _measures(synthesis: nn.Module) -> bool:
    """Whether `render` draws the training grid first, to measure constants of the image."""
    return any(getattr(module, "instance_norm", False) for module in synthesis.modules())


def _with_measuring(layer: LayerCost, once: LayerCost) -> LayerCost:
    return dataclasses.replace(
        layer,
        full=layer.full + once.full - once.weights,
        split=layer.split + once.split - once.weights,
    )
