"""The mapping network of StyleGAN2: latents and labels to w."""

from __future__ import annotations

from ops.mapping_layers.api import mapping_layers
from ops.mapping_layers.reference import normalize_2nd_moment

__all__ = ["mapping_layers", "normalize_2nd_moment"]
