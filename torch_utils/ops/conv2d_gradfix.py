"""Face: see `ops.conv2d`. The switches `enabled` and `weight_gradients_disabled` can be set here.

They live in `ops.conv2d.gradfix`; a plain copy in this module would be set without effect, so the
module's class forwards them.
"""

from __future__ import annotations

import sys
from types import ModuleType

from ops.conv2d import conv2d, conv_transpose2d, gradfix, no_weight_gradients

__all__ = ["conv2d", "conv_transpose2d", "no_weight_gradients"]


class _Face(ModuleType):
    @property
    def enabled(self) -> bool:
        """Whether weight gradients can be switched off at all."""
        return gradfix.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        gradfix.enabled = bool(value)

    @property
    def weight_gradients_disabled(self) -> bool:
        """Whether they are switched off now; `no_weight_gradients` sets it."""
        return gradfix.weight_gradients_disabled

    @weight_gradients_disabled.setter
    def weight_gradients_disabled(self, value: bool) -> None:
        gradfix.weight_gradients_disabled = bool(value)


sys.modules[__name__].__class__ = _Face
