"""Switches of the convolutions in this folder (StyleGAN2-ADA's `conv2d_gradfix`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

enabled: bool = False
"""Whether convolutions can skip weight gradients at all; the training loop sets it."""

weight_gradients_disabled: bool = False
"""Whether backward passes skip them right now; set by `no_weight_gradients`."""


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Backward passes inside compute no gradients of convolution weights (they stay None).

    The former state returns at the end, also after an exception. Only effective for convolutions
    evaluated while `enabled` was set.

    Args:
        disable: False = do nothing, so that a condition can be passed.
    """
    global weight_gradients_disabled
    before = weight_gradients_disabled
    weight_gradients_disabled = before or disable
    try:
        yield
    finally:
        weight_gradients_disabled = before
