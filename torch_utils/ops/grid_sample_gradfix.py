"""Face: see `ops.grid_sample`.

`enabled` may be set, as scripts for StyleGAN2-ADA do; it changes nothing, since second derivatives
are always there.
"""

from __future__ import annotations

from ops.grid_sample import grid_sample

__all__ = ["enabled", "grid_sample"]

enabled = False
