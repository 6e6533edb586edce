"""Face: see `ops.upfirdn2d`."""

from __future__ import annotations

from ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]
