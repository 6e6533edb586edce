"""The layers of generators as their cost needs them: channels, points, work per image.

See `networks.cost` for what is counted and how.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from networks.hyper import HyperSynthesis
from networks.hyper_layers import HyperStep
from networks.inr import INRSynthesis
from networks.layers import FullyConnectedLayer
from networks.published import PublishedSynthesis
from networks.stylegan2 import SynthesisNetwork


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one layer takes for one image.

    Attributes:
        name: Where it is, for example `b32.layers.0`.
        points: (rows, columns) at which it is evaluated; None = once per image.
        params: Learned numbers.
        weights: MACs that make its weights, once per image; contained in the next two.
        full, split, paper: MACs by the conventions of this module.
    """

    name: str
    points: tuple[int, int] | None
    params: int
    weights: int
    full: int
    split: int
    paper: int


class PointLayer(NamedTuple):
    """A layer of a continuous network: a 1x1 product at the points of a level.

    Attributes:
        name: Where it is.
        level: Index of the level whose points it is evaluated at, 0 = coarsest.
        features: Input channels from the layer before it.
        coords: Input channels that are functions of the coordinates.
        outputs: Output channels.
        reads_below: Whether the features come from the level below.
        multiplies_below: Whether already the definition multiplies them there.
        is_trunk: Whether it hands on features (to-RGB does not).
        predict: MACs per image that predict the weights' factors.
        compose: MACs per image that make weights of the factors.
        params: Learned numbers.
    """

    name: str
    level: int
    features: int
    coords: int
    outputs: int
    reads_below: bool = False
    multiplies_below: bool = False
    is_trunk: bool = True
    predict: int = 0
    compose: int = 0
    params: int = 0

    def cost(self, shapes: Sequence[tuple[int, int]]) -> LayerCost:
        """The cost if level k is evaluated at shapes[k] = (rows, columns) points."""
        shape = shapes[self.level]
        points = area(shape)
        weights = self.predict + self.compose
        full = (self.features + self.coords) * self.outputs * points + weights
        split = full
        if self.reads_below:
            below = area(shapes[self.level - 1])
            split += self.features * self.outputs * (below - points)
        paper = self.predict
        if self.is_trunk:
            paper += (self.features or self.coords) * self.outputs * points
        full = split if self.multiplies_below else full
        return LayerCost(self.name, shape, self.params, weights, full, split, paper)


def point_layers(synthesis: nn.Module) -> list[PointLayer]:
    """The layers of a continuous synthesis network, in order.

    Raises:
        ValueError: A network of another kind.
    """
    for kind, describe in _DESCRIPTIONS.items():
        if isinstance(synthesis, kind):
            return list(describe(synthesis))
    raise ValueError(f"the work of a {type(synthesis).__name__} cannot be counted")


def area(shape: tuple[int, int]) -> int:
    """Number of points of a grid (rows, columns)."""
    return shape[0] * shape[1]


def count_params(*parts: nn.Module | nn.Parameter | None) -> int:
    """Learned numbers of modules and parameters."""
    tensors = []
    for part in parts:
        tensors += [part] if isinstance(part, nn.Parameter) else part.parameters() if part else []
    return sum(tensor.numel() for tensor in tensors)


def _dense(layer: FullyConnectedLayer) -> int:
    return layer.in_features * layer.out_features


def _per_image(name: str, macs: int, params: int) -> LayerCost:
    return LayerCost(name, None, params, 0, macs, macs, macs)


def mapping_costs(mapping: nn.Module) -> list[LayerCost]:
    """What happens before there is a w."""
    costs = [
        _per_image(f"mapping.{name}", layer.weight.numel(), count_params(layer))
        for name, layer in mapping.named_children()
    ]
    own = [parameter.numel() for parameter in mapping.parameters(recurse=False)]
    return costs + ([_per_image("mapping.gains", 0, sum(own))] if own else [])


def image_costs(synthesis: nn.Module) -> list[LayerCost]:
    """What a continuous synthesis network does once per image and not for a single layer."""
    if not isinstance(synthesis, HyperSynthesis):
        return []
    layer = synthesis.to_theta
    # Without a hypernetwork, all layers' latents come from the same projection.
    times = synthesis.num_ws if synthesis.latent_channels else 1
    return [_per_image("to_theta", times * layer.weight.numel(), count_params(layer))]


def _fmm_layer(name: str, level: int, layer: nn.Module, features: int, below: bool) -> PointLayer:
    """A layer with `in_channels`, `out_channels`, `rank` and `affine`, which predicts A and B."""
    inputs, outputs = layer.in_channels, layer.out_channels
    return PointLayer(
        name,
        level,
        features,
        coords=inputs - features,
        outputs=outputs,
        reads_below=below,
        predict=_dense(layer.affine),
        compose=layer.rank * inputs * outputs,
        params=count_params(layer),
    )


def _rgb_layer(name: str, level: int, layer: nn.Module, img_channels: int) -> PointLayer:
    """A modulated to-RGB, whose `affine` predicts a factor per input channel."""
    return PointLayer(
        name,
        level,
        features=layer.affine.out_features,
        coords=0,
        outputs=img_channels,
        is_trunk=False,
        predict=_dense(layer.affine),
        params=count_params(layer),
    )


def _inr_layers(synthesis: INRSynthesis) -> Iterator[PointLayer]:
    for level, block in enumerate(synthesis.blocks()):
        for index, layer in enumerate(block.layers):
            below = index == 0 and level > 0
            features = block.in_channels if index == 0 else layer.in_channels
            name = f"b{block.resolution}.layers.{index}"
            found = _fmm_layer(name, level, layer, features, below)
            if index == 0 and block.num_predicted:
                found = found._replace(
                    predict=found.predict + _dense(block.predict),
                    params=found.params + count_params(block.predict),
                )
            yield found
        yield _rgb_layer(f"b{block.resolution}.torgb", level, block.torgb, synthesis.img_channels)


def _published_layers(synthesis: PublishedSynthesis) -> Iterator[PointLayer]:
    sides = synthesis.lattices()[0]
    for resolution, block in zip(synthesis.block_resolutions, synthesis.blocks()):
        level = sides.index(block.resolution)
        names = {id(module): name for name, module in block.named_modules()}
        for index, layer in enumerate(block.layers()):
            below = index == 0 and block.up == 2
            features = block.in_channels if index == 0 else layer.in_channels
            name = f"b{resolution}.{names[id(layer)]}"
            found = _fmm_layer(name, level, layer, features, below)
            fuser = block.fuser() if index == 0 else None
            if fuser is not None:
                predict = _dense(fuser.affine) if fuser.is_modulated else 0
                found = found._replace(
                    predict=found.predict + predict, params=found.params + count_params(fuser)
                )
            yield found
        yield _rgb_layer(f"b{resolution}.torgb", level, block.torgb, synthesis.img_channels)


def _hyper_layers(synthesis: HyperSynthesis) -> Iterator[PointLayer]:
    for level, block in enumerate(synthesis.blocks()):
        name = f"b{block.resolution}"
        if block.num_frequencies:
            # The phases: one product of a matrix [k, 2] and a point each.
            yield PointLayer(
                f"{name}.frequencies", level, 0, 2, block.num_frequencies, is_trunk=False
            )
        for index, step in enumerate(block.steps):
            yield _hyper_step(f"{name}.steps.{index}", level, step, index == 0 and level > 0)
        if block.torgb is not None:
            yield PointLayer(
                f"{name}.torgb",
                level,
                features=block.out_channels,
                coords=0,
                outputs=block.img_channels,
                is_trunk=False,
                predict=_latent_macs(block.torgb),
                params=count_params(block.torgb),
            )


def _hyper_step(name: str, level: int, step: HyperStep, below: bool) -> PointLayer:
    compose = sum(
        getattr(layer, "rank", 0) * layer.in_channels * layer.out_channels for layer in step.layers
    )
    return PointLayer(
        name,
        level,
        step.in_channels,
        step.coord_channels,
        step.out_channels,
        reads_below=below,
        multiplies_below=below and step.join == "add",
        predict=sum(_latent_macs(layer) for layer in step.layers),
        compose=compose,
        params=count_params(step),
    )


def _latent_macs(layer: nn.Module) -> int:
    """MACs per image with which a latent joins a layer that all images share."""
    weight = getattr(layer, "latent_weight", None)
    return 0 if weight is None else weight.numel()


_DESCRIPTIONS = {
    INRSynthesis: _inr_layers,
    PublishedSynthesis: _published_layers,
    HyperSynthesis: _hyper_layers,
}


def stylegan2_costs(synthesis: SynthesisNetwork) -> Iterator[LayerCost]:
    for resolution in synthesis.block_resolutions:
        block = getattr(synthesis, f"b{resolution}")
        shape = (resolution, resolution)
        first = getattr(block, "const", None)
        for name in ("conv0", "conv1", "skip"):
            if hasattr(block, name):
                yield _conv_cost(f"b{resolution}.{name}", getattr(block, name), shape, first)
                first = None
        if block.num_torgb:
            taps = block.resample_filter.numel() if block.in_channels else 0
            yield _torgb_cost(f"b{resolution}.torgb", block.torgb, shape, taps)


def _conv_cost(
    name: str, layer: nn.Module, shape: tuple[int, int], const: nn.Parameter | None
) -> LayerCost:
    """A convolution, modulated (with `affine`) or not; an upsampling one is transposed."""
    outputs, inputs, height, width = layer.weight.shape
    products, points = outputs * inputs * height * width, area(shape)
    predict = compose = 0
    if hasattr(layer, "affine"):
        predict = _dense(layer.affine)
        compose = inputs * outputs  # the norms that demodulation divides by
    full = products * points // layer.up**2
    if layer.up > 1:
        full += layer.resample_filter.numel() * outputs * points
    full += predict + compose
    paper = products * points + predict
    params = count_params(layer, const)
    return LayerCost(name, shape, params, predict + compose, full, full, paper)


def _torgb_cost(name: str, layer: nn.Module, shape: tuple[int, int], taps: int) -> LayerCost:
    """To-RGB with the upsampling of the image so far through a filter of so many taps."""
    outputs, inputs, height, width = layer.weight.shape
    predict = _dense(layer.affine)
    product = outputs * inputs * height * width * area(shape) + predict
    full = product + taps * outputs * area(shape)
    return LayerCost(name, shape, count_params(layer), predict, full, full, product)
