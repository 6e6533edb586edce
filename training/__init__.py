"""Training: data, augmentation, loss, loop, and everything a run writes.

`AugmentPipe` loads lazily, so that `training.config` can be read without importing torch. Reaching
it through this package also registers it with `torch_utils.persistence`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["AugmentPipe"]


def __getattr__(name: str) -> Any:
    if name == "AugmentPipe":
        from training import registry

        return registry.AugmentPipe
    raise AttributeError(f"module 'training' has no attribute {name!r}")
