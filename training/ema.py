"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """Keeps a network whose parameters are a moving average of those of a network in training.

    Args:
        net: The network in training.
        kimg: Half-life of the average in thousands of images.
        rampup: The half-life is at most this fraction of the images seen so far, so that the random
            initial weights are soon forgotten; None = no such limit.
        net_ema: Network that takes the average, same architecture as net; None = a copy of net.

    Attributes:
        net_ema: The averaged network, in eval mode, without gradients.
    """

    def __init__(
        self,
        net: nn.Module,
        kimg: float = 10,
        rampup: float | None = None,
        net_ema: nn.Module | None = None,
    ) -> None:
        self.net = net
        self.kimg = kimg
        self.rampup = rampup
        net_ema = copy.deepcopy(net) if net_ema is None else net_ema
        self.net_ema = net_ema.eval().requires_grad_(False)

    def beta(self, cur_nimg: int, batch_size: int) -> float:
        """Weight of the old average, 0.5^(batch_size / half-life in images).

        Args:
            cur_nimg: Images seen before this batch.
            batch_size: Images of this batch, all processes together.
        """
        half_life_nimg = self.kimg * 1000
        if self.rampup is not None:
            half_life_nimg = min(half_life_nimg, cur_nimg * self.rampup)
        return 0.5 ** (batch_size / max(half_life_nimg, 1e-8))

    @torch.no_grad()
    def reset(self) -> None:
        """Start again from the current weights."""
        for ours, theirs in zip(self.net_ema.parameters(), self.net.parameters()):
            ours.copy_(theirs)
        self._copy_buffers()

    @torch.no_grad()
    def update(self, cur_nimg: int, batch_size: int) -> None:
        """Move the average towards the current weights, once per batch; buffers are copied.

        Args: as for beta.
        """
        average = get_ema_multi_avg_fn(self.beta(cur_nimg, batch_size))
        ours, theirs = list(self.net_ema.parameters()), list(self.net.parameters())
        if ours:
            average(ours, theirs, None)
        self._copy_buffers()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """State of the averaged network."""
        return self.net_ema.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what state_dict returned."""
        self.net_ema.load_state_dict(state)

    def _copy_buffers(self) -> None:
        for ours, theirs in zip(self.net_ema.buffers(), self.net.buffers()):
            ours.copy_(theirs)
