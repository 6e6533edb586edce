"""Up-sample, FIR filter, down-sample."""

from __future__ import annotations

from ops.upfirdn2d.api import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]
