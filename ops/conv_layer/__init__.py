"""A convolutional layer: FIR resampling, convolution, bias, activation, gain, clamp."""

from __future__ import annotations

from ops.conv_layer.api import conv_layer

__all__ = ["conv_layer"]
