"""Makes AugmentPipe persistent, so that snapshots carry it together with the networks.

`training.augment` imports only torch, numpy and modules of its own kind (see `networks.portable`),
so it is registered from here rather than decorating itself.
"""

from __future__ import annotations

from networks import portable
from torch_utils import persistence
from training.augment import AugmentPipe

__all__ = ["AugmentPipe"]

persistence.register([AugmentPipe], source=portable.source, module="training.augment")
