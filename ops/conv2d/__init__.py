"""2-D convolution whose weight gradients can be switched off."""

from __future__ import annotations

from ops.conv2d.api import conv2d, conv_transpose2d
from ops.conv2d.gradfix import no_weight_gradients

__all__ = ["conv2d", "conv_transpose2d", "no_weight_gradients"]
