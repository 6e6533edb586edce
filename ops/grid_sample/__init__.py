"""Bilinear sampling of an image at given positions."""

from __future__ import annotations

from ops.grid_sample.api import grid_sample

__all__ = ["grid_sample"]
