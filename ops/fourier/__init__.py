"""Sine and cosine features of coordinates."""

from ops.fourier.api import fourier

__all__ = ["fourier"]
