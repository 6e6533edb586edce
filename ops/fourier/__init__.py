"""Sine and cosine features of coordinates."""

from __future__ import annotations

from ops.fourier.api import fourier

__all__ = ["fourier"]
