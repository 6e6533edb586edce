"""The 1x1 layer of a continuous image, and upsampling from one lattice to the next."""

from __future__ import annotations

from ops.inr_layer.api import inr_layer, lattice_upsample
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps

__all__ = ["AxisTaps", "CoordFeatures", "PointTaps", "inr_layer", "lattice_upsample"]
