"""2-D convolution with FIR up- or down-sampling."""

from __future__ import annotations

from ops.conv2d_resample.api import conv2d_resample

__all__ = ["conv2d_resample"]
