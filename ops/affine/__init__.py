"""Affine maps of a batch of vectors."""

from __future__ import annotations

from ops.affine.api import affine

__all__ = ["affine"]
