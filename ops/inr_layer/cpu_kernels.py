"""The C++ functions of `inr_layer` as functions of tensors: one layer and its first gradients, and
which calls they take.

They are declared in `inr_tiles.h`. Nothing here is differentiable, see `autograd.py` for that.

Gradients: one C++ pass over dL/dy and the saved output, which tells sign and clamping of the
activation; it takes the gradient through the activation and sums it over the lattice below,
columns, rows and the image. The rest are matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops.bias_act.kernels import PIECEWISE_LINEAR
from ops.inr_layer.cpu import Chain, run_chain, tap_fields
from ops.inr_layer.inputs import AxisTaps, CoordFeatures
from torch_utils.precision import cpu_bfloat16


class Layer(NamedTuple):
    """What a layer has besides differentiable tensors.

    Attributes:
        library: The C++ library of `inr_layer`.
        taps: Vertical and horizontal taps, or None.
        act, gain, clamp: As for `inr_layer`, the gain resolved.
    """

    library: Any
    taps: tuple[AxisTaps, AxisTaps] | None
    act: str
    gain: float
    clamp: float | None


def forward(layer: Layer, tensors: Sequence[Tensor | None]) -> Tensor:
    """The layer [N, O, H, W]; tensors: weight, x, bias, cols, rows, shared and own."""
    weight, x, bias, *parts = tensors
    chain = Chain(
        [weight],
        [bias],
        x=x,
        taps=layer.taps,
        coords=CoordFeatures(*parts) if any(part is not None for part in parts) else None,
        act=layer.act,
        gain=layer.gain,
        clamp=layer.clamp,
    )
    return run_chain(layer.library, chain, want_features=True)[0]


def supports(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,
    **options: Any,
) -> str | None:
    """Why the C++ functions do not take a call of `inr_layer`; None = they do.

    Args: as of `ops.inr_layer.api.inr_layer`.
    """
    reasons = Chain([weight], [bias], x=x, **options).unsupported()
    taps = options["taps"] or ()
    if any(axis.weight.requires_grad for axis in taps):
        reasons.append("taps carry a gradient")
    if torch.is_autocast_enabled("cpu"):
        reasons.append("autocast chooses the precision")
    if options["gain"] is not None and not options["gain"] > 0:
        reasons.append("the gain must be positive")
    if options["act"] == "linear" and options["taps"] is None and options["coords"] is None:
        reasons.append("it is a plain product")
    if weight.dtype == torch.bfloat16 and cpu_bfloat16():
        reasons.append("the processor multiplies bfloat16, which PyTorch's products make use of")
    return reasons[0] if reasons else None


class _Sums(NamedTuple):
    """Results of `inr_tiles_backward`: see its header; None = not asked for."""

    inner: Tensor | None
    context: Tensor | None
    total: Tensor | None
    cols: Tensor | None
    rows: Tensor | None


def gradients(
    layer: Layer,
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    grad: Tensor,  # [N, O, H, W]
    y: Tensor,  # [N, O, H, W]
) -> list[Tensor | None]:
    """Gradients of weight, x, bias, cols, rows, shared and own; None = not wanted.

    Args:
        layer: The layer.
        tensors: The seven, or None.
        wanted: Which gradients are.
        grad: Gradient of the output, dense.
        y: The output.
    """
    weight, x, bias, cols, rows, shared, own = tensors
    sums = _differentiate(layer, tensors, wanted, grad, y)
    low = sums.inner if layer.taps is None else sums.context
    sources = ((1, x, low), (3, cols, sums.cols), (4, rows, sums.rows))
    sources += ((5, shared, sums.inner), (6, own, sums.inner))
    results: list[Tensor | None] = [None] * 7
    of_columns: list[Tensor] = []
    column = 0
    for index, features, inner in sources:
        if features is None:
            continue
        end = column + features.shape[1 if features.ndim == 4 else 0]
        if wanted[0]:
            of_columns.append(_of_weight(features, inner, weight.dtype))
        if wanted[index]:
            results[index] = _of_features(features, inner, weight[:, :, column:end])
        column = end
    if wanted[0]:
        results[0] = of_columns[0] if len(of_columns) == 1 else torch.cat(of_columns, 2)
    if wanted[2]:
        results[2] = (sums.total.sum(0) if bias.ndim == 1 else sums.total).to(bias.dtype)
    return results


def _differentiate(
    layer: Layer,
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    grad: Tensor,
    y: Tensor,
) -> _Sums:
    """One pass over dL/dy: what the gradients of the wanted tensors are made of."""
    used = [t is not None and (wanted[0] or want) for t, want in zip(tensors, wanted)]
    _weight, use_x, _bias, use_cols, use_rows, use_shared, use_own = used
    sums = torch.float64 if y.dtype == torch.float64 else torch.float32
    batch, channels, height, width = y.shape
    fields: dict[str, Any] = {}
    context = None
    if use_x and layer.taps is not None:
        low_height, low_width = tensors[1].shape[2:]
        context = y.new_empty([batch, channels, low_height, low_width])
        fields = {"low_height": low_height, "low_width": low_width, **tap_fields(layer.taps, sums)}
    on_grid = (use_x and layer.taps is None) or use_shared or use_own
    result = _Sums(
        torch.empty_like(y) if on_grid else None,
        context,
        y.new_empty([batch, channels], dtype=sums) if wanted[2] else None,
        y.new_empty([batch, channels, width], dtype=sums) if use_cols else None,
        y.new_empty([batch, channels, height], dtype=sums) if use_rows else None,
    )
    layer.library.call(
        "inr_tiles_backward",
        grad=grad,
        y=y,
        inner=result.inner,
        context=context,
        total=result.total,
        cols=result.cols,
        rows=result.rows,
        dtype=y.dtype,
        planes=batch * channels,
        height=height,
        width=width,
        threads=torch.get_num_threads(),
        slope=PIECEWISE_LINEAR[layer.act],
        gain=layer.gain,
        clamp=-1.0 if layer.clamp is None else layer.clamp,
        **fields,
    )
    return result


def _of_weight(features: Tensor, inner: Tensor, dtype: torch.dtype) -> Tensor:
    """Columns [N, O, E] of the weight's gradient: sum over points of inner x features."""
    if features.ndim == 4:
        return torch.bmm(inner.flatten(2), features.flatten(2).mT)
    batch, channels = inner.shape[:2]
    flat = features.flatten(1).to(inner.dtype)
    product = inner.view(batch * channels, -1) @ flat.t()
    return product.view(batch, channels, -1).to(dtype)


def _of_features(features: Tensor, inner: Tensor, weight: Tensor) -> Tensor:
    """W^T inner; of features that the batch shares, summed over it."""
    if features.ndim == 4:
        return torch.bmm(weight.mT, inner.flatten(2)).view(features.shape)
    weight = weight.to(inner.dtype).flatten(0, 1)
    product = weight.t() @ inner.flatten(2).flatten(0, 1)
    return product.view(features.shape).to(features.dtype)
