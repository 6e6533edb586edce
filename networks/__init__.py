"""Networks: everything with trainable weights.

The names below load lazily, so that `networks.presets` can be read without importing torch.
Reaching a class through this package also registers it with `torch_utils.persistence`.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "Discriminator",
    "Generator",
    "MappingNetwork",
    "build_discriminator",
    "build_generator",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from networks import registry

        return getattr(registry, name)
    raise AttributeError(f"module 'networks' has no attribute {name!r}")
