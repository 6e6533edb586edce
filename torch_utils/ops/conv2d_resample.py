"""Face: see `ops.conv2d_resample`."""

from __future__ import annotations

from ops.conv2d_resample import conv2d_resample

__all__ = ["conv2d_resample"]
