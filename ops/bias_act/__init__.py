"""Bias, activation function, gain and clamp in one op."""

from __future__ import annotations

from ops.bias_act.api import activation_funcs, bias_act

__all__ = ["activation_funcs", "bias_act"]
