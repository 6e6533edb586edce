"""`inr_layer` on CPUs in C++: without gradients, and with those of first order.

First order: one C++ pass over dL/dy and the saved output, which tells sign and clamping of the
activation; it takes the gradient through the activation and sums it over the lattice below,
columns, rows and the image. The rest are matrix products. Second and higher orders: where the
backward itself is recorded (`create_graph=True`), it runs the plain composition of PyTorch
operations instead, which is differentiable to any order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops.inr_layer import plain
from ops.inr_layer.cpu import SLOPES, Chain, run_chain, tap_fields
from ops.inr_layer.inputs import AxisTaps, CoordFeatures
from torch_utils.precision import cpu_bfloat16


class CpuCall(NamedTuple):
    """What a call has besides differentiable tensors.

    Attributes:
        library: The C++ library of `inr_layer`.
        taps: Vertical and horizontal taps, or None.
        act, gain, clamp: As for `inr_layer`.
    """

    library: Any
    taps: tuple[AxisTaps, AxisTaps] | None
    act: str
    gain: float | None
    clamp: float | None

    def chain(self, weight: Tensor, x: Tensor | None, bias: Tensor | None, *parts) -> Chain:
        """The call as a chain of one layer; parts: cols, rows, shared, own."""
        coords = None
        if any(part is not None for part in parts):
            coords = CoordFeatures(*parts)
        return Chain(
            [weight],
            [bias],
            x=x,
            taps=self.taps,
            coords=coords,
            act=self.act,
            gain=self.gain,
            clamp=self.clamp,
        )


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


def cpu_layer(
    library: Any,
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
    """`inr_layer` in C++, for calls that `supports` has no objection to.

    Args:
        library: The C++ library of `inr_layer`.
        weight, x, bias, taps, coords, act, gain, clamp: As of `ops.inr_layer.api.inr_layer`.

    Returns:
        Features [N, O, H, W] in the dtype of weight; gradients of any order.
    """
    call = CpuCall(library, None if x is None else taps, act, gain, clamp)
    coords = coords or CoordFeatures()
    parts = (coords.cols, coords.rows, coords.shared, coords.own)
    tensors = (weight, x, bias, *parts)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return CpuLayer.apply(call, *tensors)
    return run_chain(library, call.chain(*tensors), want_features=True)[0]


class CpuLayer(torch.autograd.Function):
    """y = act(W [up(x); e] + b): first order in C++, higher orders by composition."""

    @staticmethod
    def forward(ctx, call: CpuCall, weight, x, bias, cols, rows, shared, own):
        tensors = (weight, x, bias, cols, rows, shared, own)
        detached = [None if t is None else t.detach() for t in tensors]
        y, _ = run_chain(call.library, call.chain(*detached), want_features=True)
        ctx.call = call
        ctx.save_for_backward(*tensors, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        *tensors, y = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_composed(ctx.call, tensors, needed, grad)
        return None, *_first_order(ctx.call, tensors, needed, grad.contiguous(), y)


class _Sums(NamedTuple):
    """Results of `inr_tiles_backward`: see its header; None = not asked for."""

    inner: Tensor | None
    context: Tensor | None
    total: Tensor | None
    cols: Tensor | None
    rows: Tensor | None


def _first_order(
    call: CpuCall,
    tensors: list[Tensor | None],
    needed: tuple[bool, ...],
    grad: Tensor,
    y: Tensor,
) -> list[Tensor | None]:
    """Gradients of weight, x, bias, cols, rows, shared and own, of those that are needed."""
    weight, x, bias, cols, rows, shared, own = tensors
    need_weight, _need_x, need_bias, *_rest = needed
    size = (
        0 if x is None else x.shape[1],
        *[0 if t is None else t.shape[-3] for t in (shared, own)],
    )
    tables = [0 if t is None else t.shape[0] for t in (cols, rows)]
    parts = weight.split([size[0], *tables, *size[1:]], dim=2)
    wanted = [
        t is not None and (need_weight or need)
        for t, need in zip((x, cols, rows, shared, own), (needed[1], *needed[3:]), strict=True)
    ]
    sums = _differentiate(call, grad, y, wanted, need_bias, x)
    low = sums.inner if call.taps is None else sums.context
    sources = [(x, low), (cols, sums.cols), (rows, sums.rows), (shared, sums.inner)]
    sources.append((own, sums.inner))
    of_parts: list[Tensor | None] = []
    results: list[Tensor | None] = []
    for index, (features, inner) in enumerate(sources):
        need = features is not None and needed[1 if index == 0 else index + 2]
        own_weight = parts[index]
        of_parts.append(_of_weight(features, inner, own_weight) if need_weight else None)
        results.append(_of_features(features, inner, own_weight) if need else None)
    of_bias = None
    if need_bias:
        of_bias = (sums.total.sum(0) if bias.ndim == 1 else sums.total).to(bias.dtype)
    of_weight = None
    if need_weight:
        present = [part for part in of_parts if part is not None]
        of_weight = present[0] if len(present) == 1 else torch.cat(present, 2)
    return [of_weight, results[0], of_bias, *results[1:]]


def _differentiate(
    call: CpuCall, grad: Tensor, y: Tensor, wanted: list[bool], need_bias: bool, x: Tensor | None
) -> _Sums:
    """One pass over dL/dy; wanted: whether x, cols, rows, shared and own need what they sum."""
    sums = torch.float64 if y.dtype == torch.float64 else torch.float32
    batch, channels, height, width = y.shape
    on_grid = (wanted[0] and call.taps is None) or wanted[3] or wanted[4]
    result = _Sums(
        torch.empty_like(y) if on_grid else None,
        y.new_empty([batch, channels, *x.shape[2:]]) if wanted[0] and call.taps else None,
        y.new_empty([batch, channels], dtype=sums) if need_bias else None,
        y.new_empty([batch, channels, width], dtype=sums) if wanted[1] else None,
        y.new_empty([batch, channels, height], dtype=sums) if wanted[2] else None,
    )
    taps: dict[str, Any] = {}
    if result.context is not None:
        taps = tap_fields(call.taps, sums)
        taps |= {"low_height": x.shape[2], "low_width": x.shape[3]}
    call.library.call(
        "inr_tiles_backward",
        grad=grad,
        y=y,
        **result._asdict(),
        dtype=y.dtype,
        planes=batch * channels,
        height=height,
        width=width,
        threads=torch.get_num_threads(),
        slope=SLOPES[call.act],
        gain=Chain([y], [], act=call.act, gain=call.gain).resolved_gain(),
        clamp=-1.0 if call.clamp is None else call.clamp,
        **taps,
    )
    return result


def _of_weight(features: Tensor | None, inner: Tensor | None, weight: Tensor) -> Tensor | None:
    """Columns [N, O, E] of the weight's gradient: sum over points of inner x features."""
    if features is None:
        return None
    if features.ndim == 4:
        return torch.bmm(inner.flatten(2), features.flatten(2).transpose(1, 2))
    flat = features.flatten(1).to(inner.dtype)
    product = inner.flatten(2).flatten(0, 1) @ flat.t()
    return product.unflatten(0, weight.shape[:2]).to(weight.dtype)


def _of_features(features: Tensor, inner: Tensor, weight: Tensor) -> Tensor:
    """W^T inner; of features that the batch shares, summed over it."""
    if features.ndim == 4:
        return torch.bmm(weight.transpose(1, 2), inner.flatten(2)).view(features.shape)
    weight = weight.to(inner.dtype).flatten(0, 1)
    product = weight.t() @ inner.flatten(2).flatten(0, 1)
    return product.view(features.shape).to(features.dtype)


def _composed(
    call: CpuCall, tensors: list[Tensor | None], needed: tuple[bool, ...], grad: Tensor
) -> list[Tensor | None]:
    """The same by PyTorch operations, differentiable."""
    with torch.enable_grad():
        # Views, so that a tensor which another one depends on gets its own share only.
        inputs = [None if t is None else t.view_as(t) for t in tensors]
        chain = call.chain(*inputs)
        y = plain.inr_layer(
            inputs[0],
            chain.x,
            chain.biases[0],
            taps=chain.taps,
            coords=chain.coords,
            act=chain.act,
            gain=chain.gain,
            clamp=chain.clamp,
        )
        wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
        gradients = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(gradients) if need else None for need in needed]
