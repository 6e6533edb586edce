"""Multiply and add: a * b + c."""

from __future__ import annotations

from ops.fma.api import fma

__all__ = ["fma"]
