"""`inr_layer` on the CUDA kernels: which calls they take, and their gradients.

First order: the kernels of `inr_layer.h`, from the saved inputs and the saved output (which tells
the sign and the clamping of the activation). Second and higher orders: where the backward itself
is recorded (`create_graph=True`), it runs the plain composition of PyTorch operations instead,
which is differentiable to any order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ops.bias_act import activation_funcs
from ops.inr_layer import kernels, plain
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps

# Negative slope of the activations that a layer's output is enough to differentiate.
_SLOPES = {"linear": 1.0, "relu": 0.0, "lrelu": 0.2}
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST = 2**31 - 1


class LayerCall(NamedTuple):
    """What a call has besides differentiable tensors.

    Attributes:
        library: The loaded kernels.
        taps: Vertical and horizontal taps, or None.
        act, gain, clamp: As for `inr_layer`, the gain resolved.
    """

    library: object
    taps: tuple[AxisTaps, AxisTaps] | None
    act: str
    gain: float
    clamp: float | None

    def activation(self) -> kernels.Activation:
        """The same as the kernels take it."""
        clamp = -1.0 if self.clamp is None else float(self.clamp)
        return kernels.Activation(float(self.gain), _SLOPES[self.act], clamp)


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
        f"the kernels know {', '.join(_SLOPES)}, not {act}": act not in _SLOPES,
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
    height, width = _grid_size(x, taps, coords)
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


def _grid_size(
    x: Tensor | None, taps: tuple[AxisTaps, ...] | None, coords: CoordFeatures | None
) -> tuple[int, int]:
    """(H, W) of the output."""
    if x is not None and taps is not None:
        return len(taps[0].index), len(taps[1].index)
    return tuple(x.shape[2:] if x is not None else coords.grid_size())


def native_layer(
    library,
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
    """`inr_layer` on the kernels, for calls that `supports` has no objection to.

    Args:
        library: What `ops._dispatch.kernel_module("inr_layer", ...)` returns.
        weight, x, bias, taps, coords, act, gain, clamp: As of `ops.inr_layer.api.inr_layer`.

    Returns:
        Features [N, O, H, W] in the dtype of weight; gradients of any order.
    """
    gain = activation_funcs[act].def_gain if gain is None else gain
    call = LayerCall(library, None if x is None else taps, act, gain, clamp)
    coords = coords or CoordFeatures()
    return NativeLayer.apply(
        call, weight, x, bias, coords.cols, coords.rows, coords.shared, coords.own
    )


class NativeLayer(torch.autograd.Function):
    """y = act(W [up(x); e] + b): first order by kernels, higher orders by composition."""

    @staticmethod
    def forward(ctx, call: LayerCall, weight, x, bias, cols, rows, shared, own):
        tensors = [
            None if t is None else t.detach().contiguous()
            for t in (weight, x, bias, cols, rows, shared, own)
        ]
        y = _forward(call, *tensors)
        ctx.call = call
        ctx.save_for_backward(weight, x, bias, cols, rows, shared, own, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        *tensors, y = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_composed_gradients(ctx.call, tensors, needed, grad)
        tensors = [None if t is None else t.contiguous() for t in tensors]
        return None, *_gradients(ctx.call, tensors, needed, grad.contiguous(), y)


def _columns(x: Tensor | None, *parts: Tensor | None) -> list[int]:
    """First weight column of x (0), then of each part; parts have channels in front."""
    columns = [0]
    columns.append(0 if x is None else x.shape[1])
    for part in parts:
        columns.append(columns[-1] + (0 if part is None else part.shape[0]))
    return columns


def _forward(call, weight, x, bias, cols, rows, shared, own) -> Tensor:
    _x, at_cols, at_rows, at_shared, at_own = _columns(x, cols, rows, shared)
    size = _grid_size(x, call.taps, CoordFeatures(cols, rows, shared, own))
    features, context = [], None
    if x is not None and call.taps is None:
        features.append((x, 0))
    elif x is not None:
        context, _none = kernels.forward(call.library, weight, [(x, 0)], tuple(x.shape[2:]))
    if shared is not None:
        features.append((shared[None], at_shared))
    if own is not None:
        features.append((own, at_own))
    y, _none = kernels.forward(
        call.library,
        weight,
        features,
        size,
        context=context,
        taps=call.taps,
        cols=_table(weight, cols, at_cols),
        rows=_table(weight, rows, at_rows),
        bias=bias,
        activation=call.activation(),
    )
    return y


def _table(weight: Tensor, part: Tensor | None, column: int) -> Tensor | None:
    """Product of a weight's columns and the features of one axis, not rounded: [N, O, W]."""
    if part is None:
        return None
    exact = kernels.accumulator(weight.dtype)
    own = weight[:, :, column : column + part.shape[0]]
    return (own.to(exact) @ part.to(exact)).to(exact)  # also under autocast


def _gradients(call, tensors, needed, grad, y) -> list[Tensor | None]:
    """First order of all tensors that need it, by kernels."""
    weight, x, bias, cols, rows, shared, own = tensors
    need_weight, need_x, need_bias, need_cols, need_rows, need_shared, need_own = needed
    _x, at_cols, at_rows, at_shared, at_own = _columns(x, cols, rows, shared)
    library, activation = call.library, call.activation()
    chain = (grad, y, activation)
    of_weight = torch.empty_like(weight) if need_weight else None
    result = [of_weight, None, None, None, None, None, None]

    use_cols = cols is not None and (need_weight or need_cols)
    use_rows = rows is not None and (need_weight or need_rows)
    total = None
    if use_cols or use_rows or (need_bias and not need_weight):
        sums = kernels.sums(library, *chain, cols=use_cols, rows=use_rows, total=need_bias)
        total = sums[2]
        for i, part, at, sum_of in ((3, cols, at_cols, sums[0]), (4, rows, at_rows, sums[1])):
            if sum_of is not None:
                result[i] = _table_gradients(weight, of_weight, part, at, sum_of, needed[i])
    if x is not None and call.taps is not None and (need_weight or need_x):
        low = kernels.context_grad(library, call.taps, *chain)
        if need_x:
            result[1] = kernels.input_grad(library, weight, 0, x.shape[1], low)
        if need_weight:
            kernels.weight_grad(library, of_weight, 0, x, low)
        x = None
    full = ((1, x, 0), (5, None if shared is None else shared[None], at_shared), (6, own, at_own))
    for i, features, at in full:
        if features is None:
            continue
        if need_weight:
            # The first product that reads the gradients at all points sums them, too.
            first = need_bias and total is None
            of_bias = kernels.weight_grad(library, of_weight, at, features, *chain, total=first)
            total = of_bias if first else total
        if needed[i]:
            gradient = kernels.input_grad(
                library, weight, at, features.shape[1], *chain, sum_images=i == 5
            )
            result[i] = gradient[0] if i == 5 else gradient
    if need_bias:
        if total is None:
            total = kernels.sums(library, *chain, cols=False, rows=False, total=True)[2]
        result[2] = (total.sum(0) if bias.ndim == 1 else total).to(bias.dtype)
    return result


def _table_gradients(
    weight: Tensor, of_weight: Tensor | None, part: Tensor, column: int, total: Tensor, need: bool
) -> Tensor | None:
    """From the sums along an axis [N, O, W] to the weight's columns and the features [E, W]."""
    end = column + part.shape[0]
    if of_weight is not None:
        of_weight[:, :, column:end] = total @ part.to(total.dtype).t()
    if not need:
        return None
    own = weight[:, :, column:end].to(total.dtype)
    return (own.flatten(0, 1).t() @ total.flatten(0, 1)).to(part.dtype)


def _composed_gradients(call, tensors, needed, grad) -> list[Tensor | None]:
    """The same by PyTorch operations, differentiable."""
    with torch.enable_grad():
        # Views, so that a tensor which another one depends on gets its own share only.
        weight, x, bias, *parts = [None if t is None else t.view_as(t) for t in tensors]
        y = plain.inr_layer(
            weight,
            x,
            bias,
            taps=call.taps,
            coords=CoordFeatures(*parts) if any(p is not None for p in parts) else None,
            act=call.act,
            gain=call.gain,
            clamp=call.clamp,
        )
        inputs = [t for t, need in zip((weight, x, bias, *parts), needed) if need]
        gradients = iter(torch.autograd.grad(y, inputs, grad, create_graph=True))
    return [next(gradients) if need else None for need in needed]
