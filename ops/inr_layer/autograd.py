"""Gradients of `inr_layer` on kernels, and which calls the CUDA kernels take.

First order: the operators of `native.py`, CUDA kernels or C++, from the saved inputs and the saved
output (which tells the sign and the clamping of the activation). Second and higher orders: where
the backward itself is recorded (`create_graph=True`), it runs the plain composition of PyTorch
operations instead, which is differentiable to any order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ops._native import composed_gradients, in_places
from ops.bias_act import activation_funcs
from ops.bias_act.kernels import PIECEWISE_LINEAR
from ops.inr_layer import native, plain
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST = 2**31 - 1


class LayerCall(NamedTuple):
    """What a call has besides differentiable tensors.

    Attributes:
        impl: "cuda" or "cpp", as `ops._dispatch.choose` answers.
        taps: Vertical and horizontal taps, or None.
        act, gain, clamp: As for `inr_layer`, the gain resolved.
    """

    impl: str
    taps: tuple[AxisTaps, AxisTaps] | None
    act: str
    gain: float
    clamp: float | None

    def constants(self) -> tuple[Tensor | str | float | None, ...]:
        """The same as the operators take it, but for `impl`."""
        taps: tuple[Tensor | None, ...] = (None, None, None, None)
        if self.taps is not None:
            rows, cols = self.taps
            taps = (rows.index, rows.weight, cols.index, cols.weight)
        return (*taps, self.act, self.gain, self.clamp)

    def composed(
        self, weight: Tensor, x: Tensor | None, bias: Tensor | None, *parts: Tensor | None
    ) -> Tensor:
        """The layer by PyTorch's operations; parts: the coordinate features of `CoordFeatures`."""
        return plain.inr_layer(
            weight,
            x,
            bias,
            taps=self.taps,
            coords=CoordFeatures(*parts) if any(part is not None for part in parts) else None,
            act=self.act,
            gain=self.gain,
            clamp=self.clamp,
        )


def supports(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,
    *,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> str | None:
    """Why the kernels do not take a call of `inr_layer`; None = they do.

    Args: as of `ops.inr_layer.api.inr_layer`.
    """
    parts = [] if coords is None else coords.parts()
    tensors = [tensor for tensor in (x, bias, *parts) if tensor is not None]
    reasons = {
        f"the kernels know {', '.join(PIECEWISE_LINEAR)}, not {act}": act not in PIECEWISE_LINEAR,
        f"the gain must be positive, got {gain}": gain is not None and not gain > 0,
        f"the clamp must not be negative, got {clamp}": clamp is not None and clamp < 0,
        f"the kernels do not take {weight.dtype}": weight.dtype not in _DTYPES,
        "tensors of several dtypes": any(t.dtype != weight.dtype for t in tensors),
        "tensors on several devices": any(t.device != weight.device for t in tensors),
        "points of one or three coordinates": not _is_plane(x, coords),
        "an empty tensor": any(t.numel() == 0 for t in (weight, *tensors)),
    }
    for reason, applies in reasons.items():
        if applies:
            return reason
    return _why_not_taps(taps, x, coords) or _why_not_size(weight, x, taps, coords)


def _is_plane(x: Tensor | None, coords: CoordFeatures | None) -> bool:
    if x is not None and x.ndim != 4:
        return False
    return coords is None or (coords.slices is None and len(coords.grid_size()) == 2)


def _why_not_taps(
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None,
    x: Tensor | None,
    coords: CoordFeatures | None,
) -> str | None:
    if taps is None or x is None:
        return None
    if isinstance(taps[0], PointTaps) or len(taps) != 2:
        return "taps of single points"
    if any(axis.index.dtype != torch.int64 for axis in taps):
        return "taps without int64 indices"
    if taps[0].index.shape[1] != taps[1].index.shape[1] or taps[0].index.shape[1] not in (1, 2):
        return "taps that are neither nearest nor bilinear along both axes"
    if any(axis.weight.requires_grad for axis in taps):
        return "taps whose weights carry a gradient"
    if [axis.size for axis in taps] != list(x.shape[2:]):
        return "taps of a lattice of another size"
    if coords is not None and tuple(coords.grid_size()) != tuple(len(a.index) for a in taps):
        return "taps and coordinates of different grids"
    return None


def _why_not_size(
    weight: Tensor,
    x: Tensor | None,
    taps: tuple[AxisTaps, ...] | None,
    coords: CoordFeatures | None,
) -> str | None:
    height, width = native.grid_size(x, taps, coords)
    channels = max(weight.shape[1:])
    if height * width == 0:
        return "an empty grid"
    # The kernels count within an image with 32 bits.
    if channels * height * width > _MOST or (x is not None and x[0].numel() > _MOST):
        return "an image of more than 2**31 values"
    if weight.shape[0] > 65535:
        return "more than 65535 images"
    if x is not None and taps is None and coords is not None and (height, width) != x.shape[2:]:
        return "coordinates of another grid than the features"
    return None


def native_layer(
    impl: str,
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,  # [O] or [N, O]
    *,
    taps: tuple[AxisTaps, AxisTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:  # [N, O, H, W]
    """`inr_layer` on kernels, for calls that they take; recorded only where gradients are wanted.

    Args:
        impl: "cuda" or "cpp", as `ops._dispatch.choose` answers.
        weight, x, bias, taps, coords, act, gain, clamp: As of `ops.inr_layer.api.inr_layer`.

    Returns:
        Features [N, O, H, W] in the dtype of weight; gradients of any order.
    """
    call = _make_call(impl, x, taps, act, gain, clamp)
    tensors = (weight, x, bias, *_parts(coords))
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return NativeLayer.apply(call, *tensors)
    return native.forward(*tensors, *call.constants(), impl)


def _make_call(impl, x, taps, act, gain, clamp) -> LayerCall:
    gain = activation_funcs[act].def_gain if gain is None else gain
    limit = None if clamp is None else float(clamp)
    return LayerCall(impl, None if x is None else taps, act, float(gain), limit)


def _parts(coords: CoordFeatures | None) -> tuple[Tensor | None, ...]:
    if coords is None:
        return None, None, None, None
    return coords.cols, coords.rows, coords.shared, coords.own


def layer_with_image(
    impl: str,
    rgb: Tensor,  # [N, C, O]
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,  # [O] or [N, O]
    *,
    taps: tuple[AxisTaps, AxisTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
    want_features: bool = True,
) -> tuple[Tensor | None, Tensor]:  # [N, O, H, W], [N, C, H, W]
    """A layer and its product with `rgb` in one kernel, without gradients.

    Args:
        impl: As of `native_layer`, of kernels that have `inr_layer_forward`.
        rgb: In the dtype of weight, C <= `ops.inr_layer.kernels.MAX_COLORS`.
        weight, x, bias, taps, coords, act, gain, clamp: As of `ops.inr_layer.api.inr_layer`, what
            `supports` has no objection to.
        want_features: Whether the layer's own values are wanted.

    Returns:
        Features [N, O, H, W] in the dtype of weight (None unless wanted), and rgb y in float32
        (float64 of float64), y as rounded to the dtype of weight.
    """
    call = _make_call(impl, x, taps, act, gain, clamp)
    tensors = (weight, x, bias, *_parts(coords))
    found = native.forward_with_image(rgb, want_features, *tensors, *call.constants(), impl)
    return found[1] if want_features else None, found[0]


class NativeLayer(torch.autograd.Function):
    """y = act(W [up(x); e] + b): first order by kernels, higher orders by composition."""

    @staticmethod
    def forward(ctx, call: LayerCall, *tensors):
        y = native.forward(*tensors, *call.constants(), call.impl)
        ctx.call = call
        ctx.save_for_backward(*tensors, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        *tensors, y = ctx.saved_tensors
        call, wanted = ctx.call, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *composed_gradients(call.composed, tensors, wanted, grad)
        found = native.gradients(grad, y, *tensors, *call.constants(), wanted, call.impl)
        return None, *in_places(found, wanted)
