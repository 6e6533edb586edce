"""All weights of a block of a continuous image, composed from w."""

from __future__ import annotations

from ops.inr_weights.api import inr_weights

__all__ = ["inr_weights"]
