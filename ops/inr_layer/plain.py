"""`inr_layer` in plain PyTorch, rearranged: equal to the definition, cheaper, any order.

* A 1x1 layer commutes with upsampling, W up(x) = up(W x): the features of the lattice below are
  multiplied on that lattice, a quarter of the work.
* W e(p) is a sum over the parts of e: functions of one coordinate cost one row or one column,
  functions shared by the batch are one matrix product for all images.
* Activations with f(g x) = g f(x) take their gain in the weights, a tiny tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.bias_act import activation_funcs, bias_act
from ops.inr_layer.inputs import AxisTaps, CoordFeatures

# Up to this many lattice entries per axis a dense matrix product is faster on a CPU, forward and
# backward, than F.interpolate; both are differentiable to any order.
_INR_DENSE_SIZE = 24
_INR_HOMOGENEOUS = ("linear", "relu", "lrelu")


def lattice_upsample(x: Tensor, rows: AxisTaps, cols: AxisTaps, impl: str = "auto") -> Tensor:
    """y = A_rows x A_cols^T per channel. See `ops.inr_layer.api.lattice_upsample`."""
    if max(rows.size, cols.size) <= _INR_DENSE_SIZE:
        return rows.matrix(x.dtype) @ (x @ cols.matrix(x.dtype).t())
    if rows.doubling is not None and cols.doubling is not None:
        if rows.index.shape[1] == 1:
            doubled = F.interpolate(x, scale_factor=2, mode="nearest")
        else:
            doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        top, left = rows.doubling, cols.doubling
        bottom, right = top + rows.index.shape[0], left + cols.index.shape[0]
        return doubled[:, :, top:bottom, left:right]
    # Arbitrary taps; the axis that grows less goes first, so that less is gathered.
    if rows.index.shape[0] * cols.size <= cols.index.shape[0] * rows.size:
        return _inr_gather(_inr_gather(x, rows, 2), cols, 3)
    return _inr_gather(_inr_gather(x, cols, 3), rows, 2)


def inr_layer(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,  # [O]
    *,
    taps: tuple[AxisTaps, AxisTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:  # [N, O, H, W]
    """act(up(W_x x) + W_e e(p) + b) * gain, clamped. See `ops.inr_layer.api.inr_layer`."""
    if gain is None:
        gain = activation_funcs[act].def_gain
    if gain > 0 and gain != 1 and act in _INR_HOMOGENEOUS:
        weight = weight * gain
        bias = None if bias is None else bias * gain
        gain = 1
    num_features = 0 if x is None else x.shape[1]
    terms = []
    if x is not None:
        w_x = weight if coords is None else weight[:, :, :num_features]
        product = torch.bmm(w_x, x.flatten(2)).unflatten(2, x.shape[2:])
        terms.append(product if taps is None else lattice_upsample(product, *taps))
    if coords is not None:
        terms.extend(_inr_coord_terms(weight[:, :, num_features:], coords))
    if bias is not None and len(terms) > 1:
        # The smallest term (a row or a column) takes the bias: no pass over the grid.
        terms[-1] = terms[-1] + bias[:, None, None]
        bias = None
    y = terms[0]
    for term in terms[1:]:
        y = y + term
    return bias_act(y, bias, act=act, gain=gain, clamp=clamp)


def _inr_coord_terms(weight: Tensor, coords: CoordFeatures) -> list[Tensor]:
    """W_e e(p) as terms that broadcast to [N, O, H, W], full grids first, columns last."""
    sizes = [0 if p is None else p.shape[1 if p.ndim == 4 else 0] for p in coords]
    w_cols, w_rows, w_shared, w_own = weight.split(sizes, dim=2)
    terms = []
    if coords.own is not None:
        product = torch.bmm(w_own, coords.own.flatten(2))
        terms.append(product.unflatten(2, coords.own.shape[2:]))
    if coords.shared is not None:
        # One product for the whole batch: [N O, E] x [E, H W].
        product = w_shared.flatten(0, 1) @ coords.shared.flatten(1)
        terms.append(product.view(*weight.shape[:2], *coords.shared.shape[1:]))
    if coords.rows is not None:
        terms.append((w_rows @ coords.rows)[:, :, :, None])
    if coords.cols is not None:
        terms.append((w_cols @ coords.cols)[:, :, None, :])
    return terms


def _inr_gather(x: Tensor, taps: AxisTaps, dim: int) -> Tensor:
    """Reads one axis through its taps: sum_t weight[:, t] * x[index[:, t]]."""
    y = x.index_select(dim, taps.index[:, 0])
    if taps.index.shape[1] == 1:
        return y
    right = taps.weight[:, 1].to(x.dtype)
    right = right[:, None] if dim == 2 else right
    return torch.lerp(y, x.index_select(dim, taps.index[:, 1]), right)
