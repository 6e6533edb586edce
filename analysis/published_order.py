"""The plain order of operations, to compare kernels with.

Upsample, concatenate, multiply, add the bias, activate: what the published code of INR-GAN does,
and what anybody would write first. `published_order` puts it in the place of the ops everywhere in
the networks, so that the same generator, with the same weights, runs both ways in one process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import ops.affine
import ops.affine.plain
import ops.bias_act
import ops.bias_act.plain
import ops.fmm
import ops.fmm.reference
import ops.fourier
import ops.fourier.plain
import ops.inr_block
import ops.inr_layer
import ops.inr_layer.plain
import ops.inr_weights
import ops.inr_weights.reference
import ops.mapping_layers
import ops.mapping_layers.reference
import ops.upfirdn2d
import ops.upfirdn2d.plain
from ops._dispatch import SWITCH
from ops.inr_layer import AxisTaps, CoordFeatures, PointTaps


def inr_layer(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,  # [O] or [N, O]
    *,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:  # [N, O, H, W]
    """act(W [up(x); e(p)] + b) * gain, clamped, in this order. See `ops.inr_layer.inr_layer`."""
    parts = []
    if x is not None:
        parts.append(x if taps is None else ops.inr_layer.plain.lattice_upsample(x, *taps))
    if coords is not None:
        size = parts[0].shape[2:] if parts else coords.grid_size()
        parts.append(coords.dense(weight.shape[0], *size))
    features = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    y = torch.bmm(weight, features.flatten(2))
    if bias is not None and bias.ndim == 2:
        y, bias = y + bias[:, :, None], None
    y = y.unflatten(2, features.shape[2:])
    # Under autocast the product has another dtype than the bias.
    bias = None if bias is None else bias.to(y.dtype)
    return ops.bias_act.plain.bias_act(y, bias, act=act, gain=gain, clamp=clamp)


def inr_block(
    layers: Sequence[Tensor],
    biases: Sequence[Tensor],
    rgb: Tensor,
    rgb_bias: Tensor,
    x: Tensor | None = None,
    img: Tensor | None = None,
    *,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    want_features: bool = True,
    impl: str = "auto",
) -> tuple[Tensor | None, Tensor]:
    """Layer by layer, then to-RGB, then the image below. See `ops.inr_block.inr_block`."""
    options: dict[str, Any] = {"act": act, "gain": gain, "clamp": clamp}
    x = inr_layer(layers[0], x, biases[0], taps=taps, coords=coords, **options)
    for weight, bias in zip(layers[1:], biases[1:]):
        x = inr_layer(weight, x, bias, **options)
    image = inr_layer(rgb, x).to(rgb_bias.dtype)
    image = ops.bias_act.plain.bias_act(image, rgb_bias, clamp=clamp)
    if img is not None:
        lower = img if taps is None else ops.inr_layer.plain.lattice_upsample(img, *taps)
        image = image + lower
    return x if want_features else None, image


def _replacements() -> list[tuple[Callable[..., Any], Callable[..., Any]]]:
    """(public function, what takes its place)."""
    pairs = [
        (ops.inr_block.inr_block, inr_block),
        (ops.inr_layer.inr_layer, inr_layer),
        (ops.inr_layer.lattice_upsample, ops.inr_layer.plain.lattice_upsample),
        (ops.fmm.fmm, ops.fmm.reference.fmm),
        (ops.inr_weights.inr_weights, ops.inr_weights.reference.inr_weights),
        (ops.mapping_layers.mapping_layers, ops.mapping_layers.reference.mapping_layers),
    ]
    for package in (ops.affine, ops.bias_act, ops.fourier, ops.upfirdn2d):
        for name in package.__all__:
            public, plain = getattr(package, name), getattr(package.plain, name, None)
            if callable(plain) and plain is not public:
                pairs.append((public, plain))
    return pairs


def _users() -> list[ModuleType]:
    """Modules that may have imported an op by name."""
    rooms = ("networks.", "ops.", "training.")
    return [module for name, module in list(sys.modules.items()) if name.startswith(rooms)]


@contextlib.contextmanager
def published_order() -> Iterator[None]:
    """Inside the block all networks compute in the plain order, without any kernel.

    Not for several threads, and only for modules that are imported already.
    """
    replaced: list[tuple[ModuleType, str, Any]] = []
    plain_of = {id(public): plain for public, plain in _replacements()}
    try:
        for module in _users():
            for name, value in list(vars(module).items()):
                if callable(value) and id(value) in plain_of:
                    replaced.append((module, name, value))
                    setattr(module, name, plain_of[id(value)])
        yield
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Inside the block the ops run as on a machine without a compiler: plain PyTorch, our order."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "plain"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
