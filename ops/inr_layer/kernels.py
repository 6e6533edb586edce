"""The CUDA kernels of `inr_layer` as functions of tensors: sizes, scratch memory, tiles.

`library` is what `ops._dispatch.kernel_module("inr_layer", ...)` returns; its functions are
declared in `inr_layer.h`. Nothing here is differentiable, see `autograd.py` for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ops.inr_layer.inputs import AxisTaps

# As many blocks keep every multiprocessor of the largest devices busy; with fewer, smaller tiles.
_ENOUGH_BLOCKS = 128
# A part of a sum over points is at least so long, so that it costs more than its own overhead.
_POINTS_PER_PART = 1024


MAX_COLORS = 4
"""As inr_output.cuh: so many channels of an image a forward sums."""


class Activation(NamedTuple):
    """y = clamp(gain * (v > 0 ? v : slope * v)).

    Attributes:
        gain: Factor, > 0.
        slope: 1 = linear, 0 = relu.
        clamp: Limit of |y|; negative = none.
    """

    gain: float = 1.0
    slope: float = 1.0
    clamp: float = -1.0


IDENTITY = Activation()


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that kernels sum in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def choose_tile(rows: int, cols: int, products: int, dtype: torch.dtype) -> int:
    """Side of the square tile that one block computes.

    Args:
        rows, cols: Size of each product.
        products: Number of products.
        dtype: Of the operands; for float64 there is one size.

    Returns:
        128 where that leaves enough blocks and wastes little, else 64.
    """
    if dtype == torch.float64 or rows <= 64 or cols <= 64:
        return 64
    blocks = -(-rows // 128) * -(-cols // 128) * products
    return 128 if blocks >= _ENOUGH_BLOCKS else 64


def choose_splits(rows: int, cols: int, images: int, points: int) -> int:
    """Number of parts of the points that weight gradients are summed in, one after another."""
    blocks = -(-rows // 64) * -(-cols // 64) * images
    wanted = -(-_ENOUGH_BLOCKS // blocks)
    return max(1, min(wanted, points // _POINTS_PER_PART, 65535 // images))


def forward(
    library,
    weight: Tensor,  # [N, O, K]
    features: Sequence[tuple[Tensor, int]],
    size: tuple[int, int],
    *,
    context: Tensor | None = None,  # [N, O, h, w]
    taps: tuple[AxisTaps, AxisTaps] | None = None,
    cols: Tensor | None = None,  # [N, O, W]
    rows: Tensor | None = None,  # [N, O, H]
    bias: Tensor | None = None,  # [O] or [N, O]
    activation: Activation = IDENTITY,
    rgb: Tensor | None = None,  # [N, C, O]
    want_features: bool = True,
    tile: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """y = act(sum W_s x_s + up(context) + cols + rows + bias), and rgb y where asked for.

    Args:
        library: The loaded kernels.
        weight: Per-image weights [N, O, K], dense.
        features: Up to three pairs of features [N or 1, K_s, H, W], dense, and the first of their
            columns in the weight.
        size: (H, W).
        context: Product on the lattice below [N, O, h, w], dense, read through `taps`.
        taps: Vertical and horizontal taps, if there is a context.
        cols, rows: Tables [N, O, W] and [N, O, H], dense, that every row or column adds, in the
            accumulator's dtype: two terms that cancel are not rounded first.
        bias: [O] or [N, O], dense.
        activation: The activation.
        rgb: Weights [N, C, O] of a further product with y, dense, C <= `MAX_COLORS`.
        want_features: Whether y is wanted; without `rgb` it must be.
        tile: 64 or 128; None = chosen.

    Returns:
        y [N, O, H, W] in the dtype of weight, or None, and the colours [N, C, H, W] in its
        accumulator's dtype, or None.
    """
    n, out_channels, num_columns = weight.shape
    height, width = size
    tile = tile or choose_tile(out_channels, height * width, n, weight.dtype)
    out = weight.new_empty([n, out_channels, height, width]) if want_features else None
    fields = _context_fields(context, taps)
    for i, (x, column) in enumerate(features):
        shared = x.shape[0] == 1
        fields |= {f"x{i}": x, f"depth{i}": x.shape[1], f"column{i}": column}
        fields[f"batch{i}"] = 0 if shared else x[0].numel()
    colors = None
    if rgb is not None:
        shape = [-(-out_channels // tile), n, rgb.shape[1], height, width]
        colors = torch.empty(shape, dtype=accumulator(weight.dtype), device=weight.device)
        fields |= {"rgb": rgb, "rgb_out": colors, "rgb_channels": rgb.shape[1]}
    library.call(
        "inr_layer_forward",
        weight=weight,
        weight_batch=out_channels * num_columns,
        weight_row=num_columns,
        cols=cols,
        rows=rows,
        bias=bias,
        bias_batch=out_channels if bias is not None and bias.ndim == 2 else 0,
        out=out,
        n=n,
        out_channels=out_channels,
        height=height,
        width=width,
        tile=tile,
        dtype=weight.dtype,
        **activation._asdict(),
        **fields,
    )
    return out, None if colors is None else colors.sum(0) if len(colors) > 1 else colors[0]


def _context_fields(context: Tensor | None, taps: tuple[AxisTaps, AxisTaps] | None) -> dict:
    """Fields of the parameters that say how the lattice below is read."""
    if context is None:
        return {}
    return {
        "context": context,
        "low_height": context.shape[2],
        "low_width": context.shape[3],
        **tap_fields(taps, accumulator(context.dtype)),
    }


def tap_fields(taps: tuple[AxisTaps, AxisTaps], dtype: torch.dtype) -> dict:
    """Indices and weights of both axes as fields of the parameters."""
    rows, cols = taps
    return {
        "row_index": rows.index.contiguous(),
        "col_index": cols.index.contiguous(),
        "row_weight": rows.weight.to(dtype).contiguous(),
        "col_weight": cols.weight.to(dtype).contiguous(),
        "num_taps": rows.index.shape[1],
    }


def input_grad(
    library,
    weight: Tensor,  # [N, O, K]
    column: int,
    depth: int,
    grad: Tensor,  # [N, O, H, W]
    saved: Tensor | None = None,  # [N, O, H, W]
    activation: Activation = IDENTITY,
    *,
    sum_images: bool = False,
    tile: int | None = None,
) -> Tensor:
    """W^T (grad act') for the columns `column` to `column + depth` of W.

    Args:
        library: The loaded kernels.
        weight: Per-image weights [N, O, K], dense.
        column: First column.
        depth: Number of columns.
        grad: Gradient of the layer's output, dense.
        saved: Output of the layer, dense; None = grad is that of the sum before the activation.
        activation: The activation.
        sum_images: Whether the features were shared, so that all images add up.
        tile: 64 or 128; None = chosen.

    Returns:
        Gradient of the features [N, depth, H, W], or [1, depth, H, W] with `sum_images`.
    """
    n, out_channels, num_columns = weight.shape
    images, points = 1 if sum_images else n, grad[0, 0].numel()
    out = grad.new_empty([images, depth, *grad.shape[2:]])
    library.call(
        "inr_layer_input_grad",
        weight=weight,
        weight_batch=out_channels * num_columns,
        weight_row=num_columns,
        column=column,
        grad=grad,
        saved=saved,
        out=out,
        sum_images=int(sum_images),
        n=n,
        out_channels=out_channels,
        depth=depth,
        points=points,
        tile=tile or choose_tile(depth, points, images, weight.dtype),
        dtype=weight.dtype,
        **activation._asdict(),
    )
    return out


def weight_grad(
    library,
    out: Tensor,  # [N, O, K]
    column: int,
    x: Tensor,  # [N or 1, D, H, W]
    grad: Tensor,  # [N, O, H, W]
    saved: Tensor | None = None,  # [N, O, H, W]
    activation: Activation = IDENTITY,
    *,
    tile: int | None = None,
    splits: int | None = None,
    total: bool = False,
) -> Tensor | None:
    """Writes (grad act') x^T into columns `column` to `column + D` of `out`.

    Args:
        library: The loaded kernels.
        out: Gradient of the weights, dense.
        column: First column that is written.
        x: Features, dense, per image or shared.
        grad, saved, activation: As for `input_grad`.
        tile: 64 or 128; None = chosen.
        splits: Number of parts of the points; None = chosen.
        total: Whether the sum of grad act' over all points is wanted; needs `saved`.

    Returns:
        That sum [N, O] in the accumulator's dtype, or None.
    """
    n, out_channels, num_columns = out.shape
    depth, points = x.shape[1], grad[0, 0].numel()
    if splits is None:
        splits = choose_splits(out_channels, depth, n, points)
    scratch = {"dtype": accumulator(out.dtype), "device": out.device}
    partial = torch.empty([splits, n, out_channels, depth], **scratch) if splits > 1 else None
    totals = torch.empty([splits, n, out_channels], **scratch) if total else None
    library.call(
        "inr_layer_weight_grad",
        grad=grad,
        saved=saved,
        x=x,
        x_batch=0 if x.shape[0] == 1 else depth * points,
        out=out,
        out_batch=out_channels * num_columns,
        out_row=num_columns,
        column=column,
        partial=partial,
        splits=splits,
        totals=totals,
        n=n,
        out_channels=out_channels,
        depth=depth,
        points=points,
        tile=tile or choose_tile(out_channels, depth, n * splits, out.dtype),
        dtype=out.dtype,
        **activation._asdict(),
    )
    return totals.sum(0) if total else None


def context_grad(
    library,
    taps: tuple[AxisTaps, AxisTaps],
    grad: Tensor,  # [N, O, H, W]
    saved: Tensor,  # [N, O, H, W]
    activation: Activation,
) -> Tensor:
    """The transpose of the upsampling of grad act', gathered: [N, O, h, w], deterministic.

    Args:
        library: The loaded kernels.
        taps: Vertical and horizontal taps.
        grad, saved, activation: As for `input_grad`; saved must be given.
    """
    n, out_channels, height, width = grad.shape
    low_height, low_width = taps[0].size, taps[1].size
    out = grad.new_empty([n, out_channels, low_height, low_width])
    scratch = taps[0].index.new_empty([low_height + low_width, 2])
    library.call(
        "inr_layer_context_grad",
        grad=grad,
        saved=saved,
        row_range=scratch[:low_height],
        col_range=scratch[low_height:],
        out=out,
        planes=n * out_channels,
        height=height,
        width=width,
        low_height=low_height,
        low_width=low_width,
        dtype=grad.dtype,
        **tap_fields(taps, accumulator(grad.dtype)),
        **activation._asdict(),
    )
    return out


def sums(
    library,
    grad: Tensor,  # [N, O, H, W]
    saved: Tensor,  # [N, O, H, W]
    activation: Activation,
    *,
    cols: bool,
    rows: bool,
    total: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Sums of grad act' over y, over x and over both, in the accumulator's dtype.

    Args:
        library: The loaded kernels.
        grad, saved, activation: As for `input_grad`; saved must be given.
        cols, rows, total: Which of the results are wanted; the others are None.

    Returns:
        [N, O, W], [N, O, H] and [N, O].
    """
    n, out_channels, height, width = grad.shape

    def new(wanted: bool, *shape: int) -> Tensor | None:
        if not wanted:
            return None
        return torch.empty(
            [n, out_channels, *shape], dtype=accumulator(grad.dtype), device=grad.device
        )

    results = new(cols, width), new(rows, height), new(total)
    library.call(
        "inr_layer_sums",
        grad=grad,
        saved=saved,
        cols=results[0],
        rows=results[1],
        total=results[2],
        planes=n * out_channels,
        height=height,
        width=width,
        dtype=grad.dtype,
        **activation._asdict(),
    )
    return results
