"""The kernels of `inr_weights` as functions of tensors: which calls they take, sizes, results.

They are declared in `inr_weights.h`; nothing here is differentiable, see `autograd.py` for that.
Tensors come as one list: ws, weights of layers, their affine matrices and biases, to-RGB's
weight, matrix and bias, and if something is predicted, matrix and bias of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import room_for_gradients
from ops.fmm.kernels import modulation_fields

_MAX_LAYERS = 4
_WIDTH = 32
"""Values of w come in as many as the widest vectors hold twice."""


def flat(
    ws: Tensor,
    layers: Sequence[Tensor],
    affines: Sequence[tuple[Tensor, Tensor]],
    rgb: Tensor,
    rgb_affine: tuple[Tensor, Tensor],
    predict: tuple[Tensor, Tensor] | None,
) -> list[Tensor]:
    """The tensors of a call in the order of this module."""
    matrices = [matrix for matrix, _bias in affines]
    biases = [bias for _matrix, bias in affines]
    return [ws, *layers, *matrices, *biases, rgb, *rgb_affine, *(predict or ())]


class Grouped(NamedTuple):
    """The arguments of `flat`, or what belongs to them."""

    ws: Any
    layers: Sequence[Any]
    affines: list[tuple[Any, Any]]
    rgb: Any
    rgb_affine: tuple[Any, Any]
    predict: tuple[Any, Any] | None


def grouped(tensors: Sequence[Any]) -> Grouped:
    """The way back from `flat`."""
    count, more = divmod(len(tensors) - 4, 3)
    first, second, end = 1 + count, 1 + 2 * count, 1 + 3 * count
    affines = list(zip(tensors[first:second], tensors[second:end]))
    rgb_affine, predict = tensors[end + 1 : end + 3], tensors[end + 3 :] if more else None
    return Grouped(tensors[0], tensors[1:first], affines, tensors[end], rgb_affine, predict)


def why_not(tensors: Sequence[Tensor]) -> list[str]:
    """Why the kernel does not take these tensors, one sentence each; empty if it does."""
    if not tensors:
        return []
    ws, layers, affines = grouped(tensors)[:3]
    reasons = []
    if len({tensor.dtype for tensor in tensors}) > 1:
        reasons.append("the tensors have several dtypes")
    if len(layers) > _MAX_LAYERS:
        reasons.append(f"it takes up to {_MAX_LAYERS} layers")
    if ws.shape[2] % _WIDTH:
        reasons.append(f"{ws.shape[2]} values of w are no multiple of {_WIDTH}")
    ranks = {bias.shape[0] // sum(weight.shape) for weight, (_, bias) in zip(layers, affines)}
    if len(ranks) > 1:
        reasons.append("the layers have several ranks")
    if any(tensor.numel() == 0 for tensor in tensors):
        reasons.append("a tensor is empty")
    return reasons


def forward(tensors: Sequence[Tensor], activation: str) -> tuple[list[Tensor], Tensor]:
    """Weights of layers, of to-RGB, and what is predicted; the styles that the backward reads."""
    ws, layers, affines, rgb, rgb_affine, predict = grouped(tensors)
    batch = ws.shape[0]
    results = [ws.new_empty((batch, *weight.shape)) for weight in (*layers, rgb)]
    names = [*(f"out{k}" for k in range(len(layers))), "out_rgb"]
    biases = [bias for _matrix, bias in (*affines, rgb_affine)]
    if predict is not None:
        biases.append(predict[1])
        names.append("out_predict")
        results.append(ws.new_empty((batch, predict[1].shape[0])))
    styles = ws.new_empty((batch, sum(bias.shape[0] for bias in biases)))
    fields = dict(zip(names, results))
    _call("inr_weights_forward", tensors, activation, styles=styles, **fields)
    return results, styles


def backward(
    grads: Sequence[Tensor],
    styles: Tensor,
    tensors: Sequence[Tensor],
    activation: str,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of the tensors, None where they are not wanted.

    Args:
        grads: Gradients of the results.
        styles: As `forward` gave them.
        tensors, activation: As for `forward`.
        wanted: Which of the tensors are.
    """
    found = room_for_gradients(tensors, wanted)
    of_ws, of_layers, of_affines, of_rgb, of_rgb_affine, of_predict = grouped(found)
    ready = [grad.contiguous() for grad in grads]
    fields: dict[str, Any] = {}
    for k, (grad, of_layer, of_affine) in enumerate(zip(ready, of_layers, of_affines)):
        fields |= {f"grad_out{k}": grad, f"grad_weight{k}": of_layer}
        fields[f"grad_affine{k}"], fields[f"grad_affine_bias{k}"] = of_affine
    if of_predict is not None:
        fields["grad_out_predict"] = ready[-1]
        fields["grad_predict"], fields["grad_predict_bias"] = of_predict
    _call(
        "inr_weights_backward",
        tensors,
        activation,
        styles=styles,
        grad_styles=torch.empty_like(styles),
        grad_out_rgb=ready[len(of_layers)],
        grad_ws=of_ws,
        grad_rgb=of_rgb,
        grad_rgb_affine=of_rgb_affine[0],
        grad_rgb_affine_bias=of_rgb_affine[1],
        **fields,
    )
    return found


def _call(function: str, tensors: Sequence[Tensor], activation: str, **results: Any) -> None:
    ws, layers, affines, rgb, rgb_affine, predict = grouped(tensors)
    ws = ws if ws.stride(2) == 1 else ws.contiguous()
    fields: dict[str, Any] = {}
    for k, (weight, (matrix, bias)) in enumerate(zip(layers, affines)):
        fields[f"weight{k}"] = weight.contiguous()
        fields[f"affine{k}"], fields[f"affine_bias{k}"] = matrix.contiguous(), bias.contiguous()
        fields[f"o{k}"], fields[f"i{k}"] = weight.shape
    if predict is not None:
        fields["predict"], fields["predict_bias"] = (part.contiguous() for part in predict)
        fields["predicted"] = predict[1].shape[0]
    rank = affines[0][1].shape[0] // sum(layers[0].shape)
    _dispatch.kernel_module("inr_weights", "cpp").call(
        function,
        ws=ws,
        rgb=rgb.contiguous(),
        rgb_affine=rgb_affine[0].contiguous(),
        rgb_affine_bias=rgb_affine[1].contiguous(),
        layers=len(layers),
        dtype=ws.dtype,
        n=ws.shape[0],
        d=ws.shape[2],
        r=rank,
        colours=rgb.shape[0],
        ws_image_stride=ws.stride(0),
        ws_layer_stride=ws.stride(1),
        threads=torch.get_num_threads(),
        affine_gain=ws.shape[2] ** -0.5,
        rgb_gain=rgb.shape[1] ** -0.5,
        **modulation_fields(activation, rank),
        **fields,
        **results,
    )
