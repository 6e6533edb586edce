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
    ws: Any,
    layers: Sequence[Any],
    affines: Sequence[tuple[Any, Any]],
    rgb: Any,
    rgb_affine: tuple[Any, Any],
    predict: tuple[Any, Any] | None,
) -> list[Any]:
    """The tensors of a call, or what belongs to them, in the order of this module."""
    matrices = [matrix for matrix, _bias in affines]
    biases = [bias for _matrix, bias in affines]
    more = () if predict is None else predict
    return [ws, *layers, *matrices, *biases, rgb, *rgb_affine, *more]


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


class WeightsCall:
    """The kernels for calls with tensors of the same shapes.

    Args:
        tensors: A call that `why_not` has nothing against.
        activation: Name of the activation.
    """

    def __init__(self, tensors: Sequence[Tensor], activation: str) -> None:
        ws, layers, affines, rgb, rgb_affine, predict = grouped(tensors)
        count, batch = len(layers), ws.shape[0]
        biases = [bias for _matrix, bias in (*affines, rgb_affine)]
        self.activation = activation
        self.num_layers = count
        # Lists of names are made once: a call takes as long as making them.
        self._inputs = flat(
            "ws",
            [f"weight{k}" for k in range(count)],
            [(f"affine{k}", f"affine_bias{k}") for k in range(count)],
            "rgb",
            ("rgb_affine", "rgb_affine_bias"),
            None if predict is None else ("predict", "predict_bias"),
        )
        self._results = [*(f"out{k}" for k in range(count)), "out_rgb"]
        self._shapes = [(batch, *weight.shape) for weight in (*layers, rgb)]
        if predict is not None:
            biases.append(predict[1])
            self._results.append("out_predict")
            self._shapes.append((batch, predict[1].shape[0]))
        self._input_grads = [f"grad_{name}" for name in self._inputs]
        self._result_grads = [f"grad_{name}" for name in self._results]
        self._styles = (batch, sum(bias.shape[0] for bias in biases))
        library = _dispatch.kernel_module("inr_weights", "cpp")
        fields = _constants(tensors, activation)
        self._forward = library.bind("inr_weights_forward", **fields)
        self._backward = library.bind("inr_weights_backward", **fields)

    def forward(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Weights of layers, of to-RGB, what is predicted; the styles that the backward reads."""
        ws = tensors[0]
        results = [ws.new_empty(shape) for shape in self._shapes]
        styles = ws.new_empty(self._styles)
        fields = self._fields(tensors)
        fields.update(zip(self._results, results))
        self._forward(styles=styles, **fields)
        return results, styles

    def backward(
        self,
        grads: Sequence[Tensor],
        styles: Tensor,
        tensors: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Gradients of the tensors, None where they are not wanted.

        Args:
            grads: Gradients of the results.
            styles: As `forward` gave them.
            tensors: As for `forward`.
            wanted: Which of the tensors are.
        """
        found = room_for_gradients(tensors, wanted)
        fields = self._fields(tensors)
        fields.update(zip(self._input_grads, found))
        fields.update(zip(self._result_grads, [grad.contiguous() for grad in grads]))
        # What hooks of saved tensors return may lie otherwise.
        styles = styles.contiguous()
        self._backward(styles=styles, grad_styles=torch.empty_like(styles), **fields)
        return found

    def _fields(self, tensors: Sequence[Tensor]) -> dict[str, Any]:
        ws = tensors[0]
        ws = ws if ws.stride(2) == 1 else ws.contiguous()
        ready = [ws, *(tensor.contiguous() for tensor in tensors[1:])]
        fields: dict[str, Any] = dict(zip(self._inputs, ready))
        fields["ws_image_stride"], fields["ws_layer_stride"] = ws.stride()[:2]
        return fields


def _constants(tensors: Sequence[Tensor], activation: str) -> dict[str, Any]:
    ws, layers, affines, rgb, _rgb_affine, predict = grouped(tensors)
    fields: dict[str, Any] = {}
    for k, weight in enumerate(layers):
        fields[f"o{k}"], fields[f"i{k}"] = weight.shape
    rank = affines[0][1].shape[0] // sum(layers[0].shape)
    return {
        "layers": len(layers),
        "dtype": ws.dtype,
        "n": ws.shape[0],
        "d": ws.shape[2],
        "r": rank,
        "colours": rgb.shape[0],
        "predicted": 0 if predict is None else predict[1].shape[0],
        "threads": torch.get_num_threads(),
        "affine_gain": ws.shape[2] ** -0.5,
        "rgb_gain": rgb.shape[1] ** -0.5,
        **modulation_fields(activation, rank),
        **fields,
    }
