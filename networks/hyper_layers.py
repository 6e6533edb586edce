"""Layers of the paper's hypernetwork generators: where weights of a 1x1 layer come from.

Skorokhodov et al., "Adversarial Generation of Continuous Images": a hypernetwork emits a vector
theta per image; every layer makes its weight and bias from its own piece of theta. Three kinds:

* "fmm": W = W_s g(A B), factorised multiplicative modulation of a shared weight (section 3.2);
* "direct": W is emitted as it is (the baseline without factorisation);
* "shared": W is the same for all images, a projection of w is added (no hypernetwork at all).

A layer's weight has the standard deviation `scale`, its bias is emitted in units of `bias_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.fmm import fmm


class PlainLinear(nn.Module):
    """y = W x + b with `torch.nn.Linear`'s initial values, without equalised learning rate.

    Weights and biases start uniform in +-1/sqrt(in_features). A class of this project because
    snapshots may only refer to those.

    Args:
        in_features: Length of x.
        out_features: Length of y.
        bias_gain: Factor of the initial bias.
    """

    def __init__(self, in_features: int, out_features: int, bias_gain: float = 1.0) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        bound = bound * bias_gain
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., in_features] to [..., out_features]."""
        return F.linear(x, self.weight, self.bias)


class HyperWeights(NamedTuple):
    """Weights of a 1x1 layer for a batch of images.

    Attributes:
        weight: [N, O, I].
        bias: [N, O].
    """

    weight: Tensor
    bias: Tensor


class FMMHyperLayer(nn.Module):
    """W = fmm_gain W_s g(A B), with A [O, r], B [r, I] and the bias from theta, in this order.

    Args:
        in_channels: I, concatenated coordinate features included.
        out_channels: O.
        scale: Standard deviation of W_s, which is stored at full scale (no equalised rate).
        bias_scale: Factor of the emitted bias.
        rank: r.
        fmm_activation: Row of the table in `ops.fmm`.
        fmm_gain: Factor of W; 0.5 with "sigmoid" is the paper's W_s sigmoid(A B).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: float,
        bias_scale: float,
        rank: int = 10,
        fmm_activation: str = "sigmoid",
        fmm_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.bias_scale = bias_scale
        self.rank = rank
        self.fmm_activation = fmm_activation
        self.fmm_gain = fmm_gain
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels) * scale)
        self.num_theta = rank * (in_channels + out_channels) + out_channels

    def forward(self, theta: Tensor) -> HyperWeights:
        """Composes the weights from the layer's piece of theta [N, num_theta]."""
        sizes = [self.out_channels * self.rank, self.in_channels * self.rank, self.out_channels]
        a, b, bias = theta.split(sizes, 1)
        a = a.unflatten(1, (self.out_channels, self.rank))
        b = b.unflatten(1, (self.rank, self.in_channels))
        weight = self.weight if self.fmm_gain == 1 else self.weight * self.fmm_gain
        return HyperWeights(fmm(weight, a, b, self.fmm_activation), bias * self.bias_scale)


class DirectHyperLayer(nn.Module):
    """W = scale times what theta says, [O, I] row by row, then the bias.

    Args: as `FMMHyperLayer`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, scale: float, bias_scale: float
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.scale = scale
        self.bias_scale = bias_scale
        self.num_theta = out_channels * in_channels + out_channels

    def forward(self, theta: Tensor) -> HyperWeights:
        """Scales the layer's piece of theta [N, num_theta]."""
        weight, bias = theta.split([self.out_channels * self.in_channels, self.out_channels], 1)
        weight = weight.unflatten(1, (self.out_channels, self.in_channels))
        return HyperWeights(weight * self.scale, bias * self.bias_scale)


class SharedLayer(nn.Module):
    """W is shared by all images; W_w w joins the bias, once per image instead of per pixel.

    Args:
        in_channels, out_channels: As `FMMHyperLayer`.
        scale: Standard deviation of [W, W_w].
        bias_scale: Unused: the bias is a parameter that starts at 0.
        latent_channels: Length of the latent that theta consists of; 0 = the layer reads none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: float,
        bias_scale: float = 1.0,
        latent_channels: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels) * scale)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.num_theta = latent_channels
        if latent_channels > 0:
            self.latent_weight = nn.Parameter(torch.randn(out_channels, latent_channels) * scale)

    def forward(self, theta: Tensor) -> HyperWeights:
        """Weights for latents theta [N, latent_channels]."""
        weight = self.weight.expand(theta.shape[0], -1, -1)
        if self.num_theta == 0:
            return HyperWeights(weight, self.bias.expand(theta.shape[0], -1))
        return HyperWeights(weight, torch.addmm(self.bias, theta, self.latent_weight.t()))


HYPER_LAYERS = {"fmm": FMMHyperLayer, "direct": DirectHyperLayer, "shared": SharedLayer}
"""Kinds of layers by name."""


class HyperStep(nn.Module):
    """What happens between two activations: one layer, or two whose outputs are added.

    y = W [x; e] + b, x the features below and e the coordinate features, either of which may be
    missing. `join` = "add" makes two layers of it, W_x x + b_x and W_e e + b_e, "concat" one.

    Args:
        in_channels: Channels of x; 0 = the step does not read x.
        coord_channels: Channels of e; 0 = the step does not read e.
        out_channels: Channels of y.
        kind: A name of `HYPER_LAYERS`.
        kind_kwargs: Further arguments of these layers.
        join: "concat" or "add".
        bias_factor: Scale of the bias relative to that of the weight; of added layers it is 1.
    """

    def __init__(
        self,
        in_channels: int,
        coord_channels: int,
        out_channels: int,
        kind: str,
        kind_kwargs: Mapping[str, Any],
        join: str = "concat",
        bias_factor: float = 0.2,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.coord_channels = coord_channels
        self.out_channels = out_channels
        self.join = join
        # Variance 2/i before a relu; half of it for each of two layers that are added.
        if join == "add":
            inputs, variance, bias_factor = [in_channels, coord_channels], 1.0, 1.0
        else:
            inputs, variance = [in_channels + coord_channels], 2.0
        layers = []
        for channels in inputs:
            fan_in = channels + kind_kwargs.get("latent_channels", 0)
            scale = (variance / fan_in) ** 0.5
            layers.append(
                HYPER_LAYERS[kind](
                    channels, out_channels, scale, bias_factor * scale, **kind_kwargs
                )
            )
        self.layers = nn.ModuleList(layers)
        self.num_theta = sum(layer.num_theta for layer in layers)

    def forward(self, theta: Tensor) -> HyperWeights:
        """Weights [N, O, I + E] and bias [N, O] from theta [N, num_theta]."""
        pieces = theta.split([layer.num_theta for layer in self.layers], 1)
        parts = [layer(piece) for layer, piece in zip(self.layers, pieces)]
        if len(parts) == 1:
            return parts[0]
        weight = torch.cat([part.weight for part in parts], 2)
        return HyperWeights(weight, sum(part.bias for part in parts))
