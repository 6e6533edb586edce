"""`inr_layer` and its first gradients on kernels, as operators for `torch.compile`, and a layer
together with its image.

Parameters of all, besides those of `ops.inr_layer.inr_layer`: the indices and weights of the taps
(None = no taps) and `impl`, whose kernels: "cuda", or "cpp", which is C++ or CUDA emulated. The
gain is a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import native_op
from ops.bias_act.kernels import PIECEWISE_LINEAR
from ops.inr_layer import cpu_kernels, kernels
from ops.inr_layer.inputs import AxisTaps, CoordFeatures


def grid_size(
    x: Tensor | None, taps: tuple[AxisTaps, ...] | None, coords: CoordFeatures | None
) -> tuple[int, int]:
    """(H, W) of the output."""
    if x is not None and taps is not None:
        return taps[0].index.shape[0], taps[1].index.shape[0]
    return tuple(x.shape[2:] if x is not None else coords.grid_size())


def _columns(x: Tensor | None, *parts: Tensor | None) -> list[int]:
    """First weight column of x (0), then of each part; parts have channels in front."""
    columns = [0]
    columns.append(0 if x is None else x.shape[1])
    for part in parts:
        columns.append(columns[-1] + (0 if part is None else part.shape[0]))
    return columns


def _make_taps(
    x: Tensor | None,
    row_index: Tensor | None,
    row_weight: Tensor | None,
    col_index: Tensor | None,
    col_weight: Tensor | None,
) -> tuple[AxisTaps, AxisTaps] | None:
    if row_index is None:
        return None
    rows = AxisTaps(row_index, row_weight, x.shape[2])
    return rows, AxisTaps(col_index, col_weight, x.shape[3])


def _fake_forward(
    weight, x, bias, cols, rows, shared, own, row_index, row_weight, col_index, col_weight, *_rest
) -> Tensor:
    taps = _make_taps(x, row_index, row_weight, col_index, col_weight)
    size = grid_size(x, taps, CoordFeatures(cols, rows, shared, own))
    return weight.new_empty([*weight.shape[:2], *size])


@native_op("inr_layer_forward", _fake_forward)
def forward(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None,  # [N, I, h, w]
    bias: Tensor | None,  # [O] or [N, O]
    cols: Tensor | None,  # [E1, W]
    rows: Tensor | None,  # [E2, H]
    shared: Tensor | None,  # [E3, H, W]
    own: Tensor | None,  # [N, E4, H, W]
    row_index: Tensor | None,  # [H, T]
    row_weight: Tensor | None,  # [H, T]
    col_index: Tensor | None,  # [W, T]
    col_weight: Tensor | None,  # [W, T]
    act: str,
    gain: float,
    clamp: float | None,
    impl: str,
) -> Tensor:  # [N, O, H, W]
    """The layer, not differentiable."""
    library = _dispatch.kernel_module("inr_layer", impl)
    tensors = (weight, x, bias, cols, rows, shared, own)
    taps = _make_taps(x, row_index, row_weight, col_index, col_weight)
    if library.has("inr_layer_forward"):
        return _forward(library, tensors, taps, _activation(act, gain, clamp))[0]
    return cpu_kernels.forward(cpu_kernels.Layer(library, taps, act, gain, clamp), tensors)


def _activation(act: str, gain: float, clamp: float | None) -> kernels.Activation:
    return kernels.Activation(gain, PIECEWISE_LINEAR[act], -1.0 if clamp is None else clamp)


def _forward(
    library, tensors, taps, activation, rgb: Tensor | None = None, want_features: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    weight, x, bias, cols, rows, shared, own = map(_dense, tensors)
    _x, at_cols, at_rows, at_shared, at_own = _columns(x, cols, rows, shared)
    features, context = [], None
    if taps is not None:
        context, _none = kernels.forward(library, weight, [(x, 0)], tuple(x.shape[2:]))
    elif x is not None:
        features.append((x, 0))
    if shared is not None:
        features.append((shared[None], at_shared))
    if own is not None:
        features.append((own, at_own))
    return kernels.forward(
        library,
        weight,
        features,
        grid_size(x, taps, CoordFeatures(cols, rows, shared, own)),
        context=context,
        taps=taps,
        cols=_table(weight, cols, at_cols),
        rows=_table(weight, rows, at_rows),
        bias=bias,
        activation=activation,
        rgb=_dense(rgb),
        want_features=want_features,
    )


def _fake_forward_with_image(rgb, want_features, weight, *rest) -> list[Tensor]:
    y = _fake_forward(weight, *rest)
    dtype = kernels.accumulator(weight.dtype)
    image = weight.new_empty([len(rgb), rgb.shape[1], *y.shape[2:]], dtype=dtype)
    return [image, y] if want_features else [image]


@native_op("inr_layer_forward_with_image", _fake_forward_with_image)
def forward_with_image(
    rgb: Tensor,  # [N, C, O]
    want_features: bool,
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None,  # [N, I, h, w]
    bias: Tensor | None,  # [O] or [N, O]
    cols: Tensor | None,  # [E1, W]
    rows: Tensor | None,  # [E2, H]
    shared: Tensor | None,  # [E3, H, W]
    own: Tensor | None,  # [N, E4, H, W]
    row_index: Tensor | None,  # [H, T]
    row_weight: Tensor | None,  # [H, T]
    col_index: Tensor | None,  # [W, T]
    col_weight: Tensor | None,  # [W, T]
    act: str,
    gain: float,
    clamp: float | None,
    impl: str,
) -> list[Tensor]:
    """The product [N, C, H, W] of rgb and the layer, and the layer where it is wanted.

    By a library that has `inr_layer_forward` (CUDA), for C <= `kernels.MAX_COLORS`; not
    differentiable. The image is in the dtype that kernels sum in.
    """
    library = _dispatch.kernel_module("inr_layer", impl)
    taps = _make_taps(x, row_index, row_weight, col_index, col_weight)
    tensors = (weight, x, bias, cols, rows, shared, own)
    activation = _activation(act, gain, clamp)
    y, image = _forward(library, tensors, taps, activation, rgb, want_features)
    return [image, y] if want_features else [image]


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _table(weight: Tensor, part: Tensor | None, column: int) -> Tensor | None:
    """Product of a weight's columns and the features of one axis, not rounded: [N, O, W]."""
    if part is None:
        return None
    exact = kernels.accumulator(weight.dtype)
    own = weight[:, :, column : column + part.shape[0]]
    return (own.to(exact) @ part.to(exact)).to(exact)  # also under autocast


def _fake_gradients(
    grad,
    y,
    weight,
    x,
    bias,
    cols,
    rows,
    shared,
    own,
    row_index,
    row_weight,
    col_index,
    col_weight,
    act,
    gain,
    clamp,
    wanted,
    impl,
) -> list[Tensor]:
    tensors = (weight, x, bias, cols, rows, shared, own)
    return [t.new_empty(t.shape) for t, want in zip(tensors, wanted) if want]


@native_op("inr_layer_gradients", _fake_gradients)
def gradients(
    grad: Tensor,  # [N, O, H, W]
    y: Tensor,  # [N, O, H, W]
    weight: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    cols: Tensor | None,
    rows: Tensor | None,
    shared: Tensor | None,
    own: Tensor | None,
    row_index: Tensor | None,
    row_weight: Tensor | None,
    col_index: Tensor | None,
    col_weight: Tensor | None,
    act: str,
    gain: float,
    clamp: float | None,
    wanted: Sequence[bool],
    impl: str,
) -> list[Tensor]:
    """Gradients of those of weight, x, bias, cols, rows, shared and own that are wanted.

    Args:
        grad: Gradient of the output.
        y: The output.
        weight, x, bias, cols, rows, shared, own: The differentiable inputs, shaped as in `forward`.
        row_index, row_weight, col_index, col_weight, act, gain, clamp, impl: As in `forward`.
        wanted: One per differentiable input.
    """
    library = _dispatch.kernel_module("inr_layer", impl)
    taps = _make_taps(x, row_index, row_weight, col_index, col_weight)
    tensors = (weight, x, bias, cols, rows, shared, own)
    if library.has("inr_layer_forward"):
        chain = (_dense(grad), y, _activation(act, gain, clamp))
        result = _gradients(library, list(map(_dense, tensors)), taps, chain, wanted)
    else:
        layer = cpu_kernels.Layer(library, taps, act, gain, clamp)
        result = cpu_kernels.gradients(layer, tensors, wanted, _dense(grad), y)
    return [gradient for gradient, want in zip(result, wanted) if want]


def _gradients(library, tensors, taps, chain, wanted) -> list[Tensor | None]:
    weight, x, bias, cols, rows, shared, own = tensors
    need_weight, need_x, need_bias, need_cols, need_rows = wanted[:5]
    _x, at_cols, at_rows, at_shared, at_own = _columns(x, cols, rows, shared)
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
                result[i] = _table_gradients(weight, of_weight, part, at, sum_of, wanted[i])
    if x is not None and taps is not None and (need_weight or need_x):
        low = kernels.context_grad(library, taps, *chain)
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
        if wanted[i]:
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
