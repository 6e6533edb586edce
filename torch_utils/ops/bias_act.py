"""Face: see `ops.bias_act`."""

from __future__ import annotations

from ops.bias_act import activation_funcs, bias_act

__all__ = ["activation_funcs", "bias_act"]
