"""Face: see `ops.fma`."""

from __future__ import annotations

from ops.fma import fma

__all__ = ["fma"]
