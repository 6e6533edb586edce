"""A whole block of a continuous image: its 1x1 layers, to-RGB and the image below."""

from __future__ import annotations

from ops.inr_block.api import inr_block

__all__ = ["inr_block"]
