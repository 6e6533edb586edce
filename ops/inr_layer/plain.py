"""`inr_layer` in plain PyTorch, rearranged: equal to the definition, cheaper, any order.

* A 1x1 layer commutes with upsampling, W up(x) = up(W x): the features of the lattice below are
  multiplied on that lattice, a quarter of the work.
* Coordinate features are the same for the whole batch, but for those predicted per image: one
  matrix product serves all images, [N O, E] x [E, H W]. The bias is added below, where there are
  fewest values. Every product adds to the sum so far, so no term costs a pass of its own.
* Where nothing is shared, the bias joins the first product: up(W x + b) = up(W x) + b.
* Activations with f(g x) = g f(x) take their gain in the weights, a tiny tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.bias_act import activation_funcs, bias_act
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps

# Up to this many lattice entries per axis a dense matrix product is faster on a CPU, forward and
# backward, than F.interpolate; both are differentiable to any order.
_INR_DENSE_SIZE = 24
_INR_HOMOGENEOUS = ("linear", "relu", "lrelu")


def lattice_upsample(x: Tensor, *taps: AxisTaps | PointTaps, impl: str = "auto") -> Tensor:
    """y = A_rows x A_cols^T per channel. See `ops.inr_layer.api.lattice_upsample`."""
    if isinstance(taps[0], PointTaps):
        return _inr_gather_points(x.flatten(2), taps[0])[:, :, None]
    if len(taps) == 1:
        return _inr_read_axis(x, taps[0], 2)
    if len(taps) == 3:
        # Slice by slice; between slices first, where there are fewest values.
        x = _inr_read_axis(x, taps[0], 2)
        return _inr_read_plane(x.flatten(1, 2), *taps[1:]).unflatten(1, x.shape[1:3])
    return _inr_read_plane(x, *taps)


def _inr_read_axis(x: Tensor, taps: AxisTaps, dim: int) -> Tensor:
    """Reads one axis of a lattice with any number of them."""
    if taps.size <= _INR_DENSE_SIZE:
        return (x.movedim(dim, -1) @ taps.matrix(x.dtype).t()).movedim(-1, dim)
    return _inr_gather(x, taps, dim)


def _inr_read_plane(x: Tensor, rows: AxisTaps, cols: AxisTaps) -> Tensor:
    """Reads a lattice [N, C, h, w]."""
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
    if rows.aligned and cols.aligned:
        size = (rows.index.shape[0], cols.index.shape[0])
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    # Arbitrary taps; the axis that grows less goes first, so that less is gathered.
    if rows.index.shape[0] * cols.size <= cols.index.shape[0] * rows.size:
        return _inr_gather(_inr_gather(x, rows, 2), cols, 3)
    return _inr_gather(_inr_gather(x, cols, 3), rows, 2)


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
    """act(up(W_x x) + W_e e(p) + b) * gain, clamped. See `ops.inr_layer.api.inr_layer`."""
    if gain is None:
        gain = activation_funcs[act].def_gain
    if gain > 0 and gain != 1 and act in _INR_HOMOGENEOUS:
        weight = weight * gain
        bias = None if bias is None else bias * gain
        gain = 1
    num_features = 0 if x is None else x.shape[1]
    if coords is None:
        # Of biases per image, `bias_act` knows nothing.
        late = bias if taps is not None and bias is not None and bias.ndim == 1 else None
        y = _inr_product(weight, x, bias if late is None else None)
        y = y if taps is None else lattice_upsample(y, *taps)
        return _inr_activate(y, late, act, gain, clamp)
    y, has_shared = None, bool(coords.without_own().parts())
    # Cut with split, whose gradient is one concatenation; slices' would be two padded sums.
    w_features, w_coords = weight.split([num_features, weight.shape[2] - num_features], 2)
    if x is not None:
        y = _inr_product(w_features, x, bias)
        y = y if taps is None else lattice_upsample(y, *taps)
    if has_shared:
        y = _inr_add_coords(y, w_coords, bias if y is None else None, coords)
    elif y is None:
        y = _inr_product(w_coords, coords.own, bias)
    else:
        y = torch.baddbmm(y.flatten(2), w_coords, coords.own.flatten(2)).unflatten(2, y.shape[2:])
    return _inr_activate(y, None, act, gain, clamp)


def _inr_product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b per image, [N, O, I] x [N, I, h, w], b [O] or [N, O]."""
    if bias is None:
        y = torch.bmm(weight, x.flatten(2))
    else:
        y = torch.baddbmm(bias[..., None], weight, x.flatten(2))
    return y.unflatten(2, x.shape[2:])


def _inr_add_coords(
    y: Tensor | None, weight: Tensor, bias: Tensor | None, coords: CoordFeatures
) -> Tensor:
    """y + W_e e(p) + b, with at least one feature that the batch shares."""
    batch, out_channels = weight.shape[:2]
    num_own = 0 if coords.own is None else coords.own.shape[1]
    w_shared, w_own = weight.split([weight.shape[2] - num_own, num_own], dim=2)
    size = coords.grid_size() if y is None else y.shape[2:]
    shared = coords.without_own().dense(1, *size)[0].flatten(1)
    w_shared = w_shared.reshape(batch * out_channels, -1)
    if y is not None:
        y = torch.addmm(y.reshape(batch * out_channels, -1), w_shared, shared)
    elif bias is not None:
        offset = bias.expand(batch, -1).reshape(-1, 1)
        y = torch.addmm(offset, w_shared, shared)
    else:
        y = w_shared @ shared
    y = y.view(batch, out_channels, -1)
    if coords.own is not None:
        y = torch.baddbmm(y, w_own, coords.own.flatten(2))
    return y.unflatten(2, size)


def _inr_activate(
    y: Tensor, bias: Tensor | None, act: str, gain: float, clamp: float | None
) -> Tensor:
    """Bias and activation of a tensor that nothing else reads."""
    if act in ("lrelu", "relu") and bias is None and gain == 1 and clamp is None:
        return F.leaky_relu_(y, activation_funcs[act].def_alpha) if act == "lrelu" else y.relu_()
    return bias_act(y, bias, act=act, gain=gain, clamp=clamp)


def _inr_gather(x: Tensor, taps: AxisTaps, dim: int) -> Tensor:
    """Reads one axis through its taps: sum_t weight[:, t] * x[index[:, t]]."""
    y = x.index_select(dim, taps.index[:, 0])
    if taps.index.shape[1] == 1:
        return y
    right = taps.weight[:, 1].to(x.dtype)
    right = right.reshape([-1] + [1] * (x.ndim - 1 - dim))
    return torch.lerp(y, x.index_select(dim, taps.index[:, 1]), right)


def _inr_gather_points(x: Tensor, taps: PointTaps) -> Tensor:
    """Reads [N, C, size] at single points, [N, C, P]."""
    if taps.index.shape[1] == 1:
        return x.index_select(2, taps.index[:, 0])
    weight = taps.weight.to(x.dtype)
    y = x.index_select(2, taps.index[:, 0]) * weight[:, 0]
    for index, share in zip(taps.index.unbind(1)[1:], weight.unbind(1)[1:]):
        y = torch.addcmul(y, x.index_select(2, index), share)
    return y
