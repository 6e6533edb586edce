"""Per-sample weights from factorised multiplicative modulation (FMM)."""

from __future__ import annotations

from ops.fmm.api import FMM_ACTIVATIONS, fmm

__all__ = ["FMM_ACTIVATIONS", "fmm"]
