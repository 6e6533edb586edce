"""Mapping network of the paper's hypernetwork generators: z and label to the last hidden layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.hyper_layers import PlainLinear
from networks.mapping import MappingBase
from ops.mapping_layers import normalize_2nd_moment


class HyperMapping(MappingBase):
    """The hypernetwork up to its last hidden layer, which is w (W space of the paper).

    h1 = relu(L1 [z; norm2(embed(c))]), h_{i+1} = h_i + g_i relu(L_{i+1} h_i), g_i learned scalars;
    z is not normalised, layers are initialised as PyTorch does, without equalised learning rates.

    Args:
        z_dim, c_dim, w_dim, num_ws, w_avg_beta: See `MappingBase`; all layers have w_dim units.
        num_layers: Hidden layers, the first one included.
        embed_features: Length of the embedded label; None = w_dim.
        initial_gain: What every g_i starts from.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 3,
        embed_features: int | None = None,
        w_avg_beta: float | None = 0.995,
        initial_gain: float = 0.1,
    ) -> None:
        super().__init__(z_dim, c_dim, w_dim, num_ws, num_layers, w_avg_beta)
        embed_features = w_dim if embed_features is None else embed_features
        if c_dim > 0:
            self.embed = PlainLinear(c_dim, embed_features)
        else:
            embed_features = 0
        self.fc0 = PlainLinear(z_dim + embed_features, w_dim)
        for index in range(1, num_layers):
            self.add_module(f"fc{index}", PlainLinear(w_dim, w_dim))
            self.register_parameter(f"gain{index}", nn.Parameter(torch.tensor(initial_gain)))

    def compute_w(self, z: Tensor | None, c: Tensor | None) -> Tensor:
        """The last hidden layer."""
        parts = [] if z is None else [z]
        if c is not None:
            parts.append(normalize_2nd_moment(self.embed(c)))
        hidden = F.relu(self.fc0(torch.cat(parts, dim=1)))
        for index in range(1, self.num_layers):
            step = F.relu(getattr(self, f"fc{index}")(hidden))
            hidden = hidden + getattr(self, f"gain{index}") * step
        return hidden
