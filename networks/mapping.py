"""Mapping network: latent and label to the intermediate latents w (Karras et al. 2019)."""

from __future__ import annotations

import torch
from torch import nn

from networks.layers import FullyConnectedLayer, check_shape
from ops.mapping_layers import mapping_layers


class MappingBase(nn.Module):
    """z, c -> ws with a running mean of w.

    A subclass has layers `fc0`, `fc1`, ... and `embed` if there are labels, and defines

    * `compute_w(z, c)`: w [N, w_dim] from z [N, z_dim] and c [N, c_dim] in the parameters' dtype,
      None where the network has no such input.

    Args:
        z_dim: Length of the latent; 0 = no latent.
        c_dim: Length of the label; 0 = unconditional.
        w_dim: Length of w.
        num_ws: How often w is repeated; None = not at all, the result is [N, w_dim].
        num_layers: Number of dense layers, at least 1, or 0 where there is no latent.
        w_avg_beta: Decay of the running mean per training batch; None = do not track.

    Raises:
        ValueError: Neither a latent nor a label, or no layers.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int,
        w_avg_beta: float | None,
    ) -> None:
        super().__init__()
        if z_dim < 0 or c_dim < 0 or z_dim + c_dim == 0:
            raise ValueError(
                f"z_dim {z_dim} and c_dim {c_dim}: one must be positive, none negative."
            )
        if num_layers < 0 or (num_layers == 0 and z_dim > 0):
            raise ValueError(f"num_layers must be at least 1, not {num_layers}.")
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))
        else:
            self.w_avg = None

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        skip_w_avg_update: bool = False,
        update_emas: bool | None = None,
    ) -> torch.Tensor:
        """Compute w and, when training, its running mean.

        Args:
            z: [N, z_dim], any real dtype; ignored if z_dim is 0.
            c: [N, c_dim], any real dtype; ignored if c_dim is 0.
            truncation_psi: w_avg + psi (w - w_avg); 1 = as it is.
            truncation_cutoff: Truncate only the first so many of the num_ws; None = all.
            skip_w_avg_update: Leave w_avg alone also in training mode.
            update_emas: None = update w_avg in training mode (StyleGAN2), True = update it,
                False = leave it alone (StyleGAN3).

        Returns:
            [N, num_ws, w_dim], or [N, w_dim] if num_ws is None; in the parameters' dtype.

        Raises:
            ValueError: Wrong shapes, or truncation without a tracked mean.
        """
        w = self.compute_w(*self._checked(z, c))
        update = self.training if update_emas is None else update_emas
        if update and not skip_w_avg_update and self.w_avg is not None:
            with torch.no_grad():
                self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is not None:
            # Real copies: callers overwrite single layers (style mixing).
            w = w.unsqueeze(1).expand(-1, self.num_ws, -1)
            w = w.clone(memory_format=torch.contiguous_format)
        if truncation_psi == 1:
            return w
        return self._truncate(w, truncation_psi, truncation_cutoff)

    def _checked(self, z: torch.Tensor | None, c: torch.Tensor | None) -> list[torch.Tensor | None]:
        """z and c in the parameters' dtype; None for what the network does not read."""
        dtype = (self.embed if self.c_dim > 0 else self.fc0).weight.dtype
        parts: list[torch.Tensor | None] = []
        for value, name, size in ((z, "z", self.z_dim), (c, "c", self.c_dim)):
            if size == 0:
                parts.append(None)
                continue
            if value is None:
                raise ValueError(
                    f"{name} is None, but the network needs {name} of shape [N, {size}]."
                )
            check_shape(value, (None, size), name)
            parts.append(value.to(dtype))
        sizes = [part.shape[0] for part in parts if part is not None]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"z and c must have the same batch size, not {sizes[0]} and {sizes[1]}."
            )
        return parts

    def _truncate(self, w: torch.Tensor, psi: float, cutoff: int | None) -> torch.Tensor:
        if self.w_avg is None:
            raise ValueError(
                f"truncation_psi {psi} needs w_avg, which this network does not track."
            )
        if cutoff is None:
            return self.w_avg.lerp(w, psi)
        return torch.cat([self.w_avg.lerp(w[:, :cutoff], psi), w[:, cutoff:]], dim=1)

    def extra_repr(self) -> str:
        """Sizes, for print(module)."""
        return (
            f"z_dim={self.z_dim}, c_dim={self.c_dim}, w_dim={self.w_dim}, "
            f"num_ws={self.num_ws}, num_layers={self.num_layers}"
        )


class MappingNetwork(MappingBase):
    """StyleGAN2's: normalised z, dense layers with equalised learning rates.

    Args:
        z_dim, c_dim, w_dim, num_ws, num_layers, w_avg_beta: See `MappingBase`.
        embed_features: Length of the embedded label; None = w_dim.
        layer_features: Width of the hidden layers; None = w_dim.
        activation: Of every layer; the label embedding is linear.
        lr_multiplier: Of every layer but the label embedding.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ) -> None:
        super().__init__(z_dim, c_dim, w_dim, num_ws, num_layers, w_avg_beta)
        embed_features = w_dim if embed_features is None else embed_features
        layer_features = w_dim if layer_features is None else layer_features
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        else:
            embed_features = 0
        if num_layers == 0 and embed_features != w_dim:
            raise ValueError(
                f"without layers, embed_features must be w_dim {w_dim}, not {embed_features}."
            )
        widths = [z_dim + embed_features] + [layer_features] * (num_layers - 1) + [w_dim]
        for index in range(num_layers):
            layer = FullyConnectedLayer(
                widths[index], widths[index + 1], activation=activation, lr_multiplier=lr_multiplier
            )
            self.add_module(f"fc{index}", layer)

    def compute_w(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        """The dense layers one after the other, of normalised latents and label embeddings."""
        layers = [getattr(self, f"fc{index}") for index in range(self.num_layers)]
        return mapping_layers(
            z,
            c,
            None if c is None else (self.embed.weight, self.embed.bias),
            [(layer.weight, layer.bias) for layer in layers],
            layers[0].activation if layers else "linear",
            layers[0].bias_gain if layers else 1,
        )
