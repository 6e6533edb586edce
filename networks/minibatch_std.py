"""The layer that lets the discriminator see the variety of a batch."""

from __future__ import annotations

import torch
from torch import nn


class MinibatchStdLayer(nn.Module):
    """Append the standard deviation over groups of samples as extra channels.

    Lets the discriminator see variety (Karras et al. 2018, section 3). With G samples per group,
    sample n belongs to group n mod (N / G).

    Args:
        group_size: Samples per group; None = the whole batch.
        num_channels: Number of appended channels, each from its share of the input channels.
    """

    def __init__(self, group_size: int | None, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] to [N, C + num_channels, H, W].

        Raises:
            ValueError: N is not a multiple of min(group_size, N), or C not one of num_channels.
        """
        batch, channels, height, width = x.shape
        group = batch if self.group_size is None else min(self.group_size, batch)
        if batch == 0 or batch % group:
            raise ValueError(
                f"Minibatch standard deviation: a batch of {batch} samples cannot be split "
                f"into groups of {group}; use a multiple of {group}."
            )
        features = self.num_channels
        if channels % features:
            raise ValueError(f"num_channels {features} does not divide the {channels} channels.")
        y = x.reshape(group, batch // group, features, channels // features, height, width)
        y = y - y.mean(dim=0)
        y = (y.square().mean(dim=0) + 1e-8).sqrt()
        y = y.mean(dim=(2, 3, 4))
        y = y.reshape(batch // group, features, 1, 1).repeat(group, 1, height, width)
        return torch.cat([x, y], dim=1)

    def extra_repr(self) -> str:
        """Group size and channels, for print(module)."""
        return f"group_size={self.group_size}, num_channels={self.num_channels}"
