"""The kernel of `mapping_layers` as functions of tensors: what it takes, sizes, results.

It is declared in `mapping_layers.h`; nothing here is differentiable, see `autograd.py` for that.
Tensors come as one list: z, c, the embedding's weight and bias, weights and biases of the layers.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import room_for_gradients
from ops.bias_act import activation_funcs
from ops.bias_act.kernels import LEAKY_SLOPES

_MAX_BATCH = 128
"""Products of larger batches are the business of a library for large products."""


class MappingOptions(NamedTuple):
    """What a call has besides tensors: see `ops.mapping_layers.api.mapping_layers`."""

    act: str
    lr_multiplier: float


class Grouped(NamedTuple):
    """The tensors of a call, or what belongs to them, by what they are."""

    z: Any
    c: Any
    embed: Any
    embed_bias: Any
    weights: Sequence[Any]
    biases: Sequence[Any]


def grouped(tensors: Sequence[Any]) -> Grouped:
    """The parts of the list that this module's functions take."""
    middle = len(tensors) // 2 + 2
    return Grouped(*tensors[:4], tensors[4:middle], tensors[middle:])


def why_not(tensors: Sequence[Tensor | None]) -> list[str]:
    """Why the kernel does not take these tensors, one sentence each; empty if it does."""
    present = [tensor for tensor in tensors if tensor is not None]
    reasons = []
    if len({tensor.dtype for tensor in present}) > 1:
        reasons.append("the tensors have several dtypes")
    if any(tensor.numel() == 0 for tensor in present):
        reasons.append("a tensor is empty")
    if present and present[0].shape[0] > _MAX_BATCH:
        reasons.append(f"it takes batches of up to {_MAX_BATCH}")
    return reasons


class MappingCall:
    """The kernels for calls with tensors of the same shapes.

    Args:
        tensors: A call that `why_not` has nothing against.
        options: What the tensors do not say.
    """

    def __init__(self, tensors: Sequence[Tensor | None], options: MappingOptions) -> None:
        parts = grouped(tensors)
        widths, batch = _widths(parts), _like(parts).shape[0]
        self.options = options
        self._w, self._saved, self._scales = (batch, widths[-1]), (batch, sum(widths)), (batch, 2)
        # The function is told where they lie, so they must stay.
        self._widths = _int64(widths)
        library = _dispatch.kernel_module("mapping_layers", "cpp")
        fields = {"widths": self._widths, **_constants(parts, options)}
        self._forward = library.bind("mapping_layers_forward", **fields)
        self._backward = library.bind("mapping_layers_backward", **fields)

    def forward(self, tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
        """w [N, O_K], and what the backward reads: features of all layers, and scales."""
        like = _like(grouped(tensors))
        w, saved = like.new_empty(self._w), like.new_empty(self._saved)
        scales = like.new_empty(self._scales)
        ready = _dense(tensors)
        self._forward(out=w, saved=saved, scales=scales, **_fields(ready))
        return w, saved, scales

    def backward(
        self,
        grad: Tensor,
        saved: Tensor,
        scales: Tensor,
        tensors: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Gradients of the tensors, None where they are not wanted.

        Args:
            grad: Gradient of w.
            saved, scales: As `forward` gave them.
            tensors: As for `forward`.
            wanted: Which of the tensors are.
        """
        found = room_for_gradients(tensors, wanted)
        # What hooks of saved tensors return may lie otherwise.
        of, ready = grouped(found), _dense(tensors)
        saved, scales = saved.contiguous(), scales.contiguous()
        self._backward(
            saved=saved,
            scales=scales,
            grad=grad.contiguous(),
            grad_z=of.z,
            grad_embed=of.embed,
            grad_embed_bias=of.embed_bias,
            grad_weights=_addresses(of.weights),
            grad_biases=_addresses(of.biases),
            **_fields(ready),
        )
        return found


def _dense(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Contiguous tensors, to be kept until a call is over: it has their addresses only."""
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _like(parts: Grouped) -> Tensor:
    return parts.c if parts.z is None else parts.z


def _widths(parts: Grouped) -> list[int]:
    """Features that the first layer reads, then those that each layer writes."""
    inputs = sum(0 if t is None else t.shape[-1] for t in (parts.z, parts.embed_bias))
    return [inputs] + [bias.shape[0] for bias in parts.biases]


def _addresses(tensors: Sequence[Tensor | None]) -> Tensor:
    return _int64([0 if t is None else t.data_ptr() for t in tensors])


def _int64(values: Sequence[int]) -> Tensor:
    # A third of the time that `torch.tensor` takes.
    return torch.frombuffer(array("q", [*values, 0]), dtype=torch.int64)


def _constants(parts: Grouped, options: MappingOptions) -> dict[str, Any]:
    z, c, embed = parts[:3]
    return {
        "layers": len(parts.weights),
        "dtype": _like(parts).dtype,
        "n": _like(parts).shape[0],
        "z_size": 0 if z is None else z.shape[1],
        "c_size": 0 if c is None else c.shape[1],
        "embed_size": 0 if c is None else embed.shape[0],
        "threads": torch.get_num_threads(),
        "lr_multiplier": float(options.lr_multiplier),
        "slope": LEAKY_SLOPES[options.act],
        "act_gain": float(activation_funcs[options.act].def_gain),
    }


def _fields(tensors: Sequence[Tensor | None]) -> dict[str, Any]:
    z, c, embed, embed_bias, weights, biases = grouped(tensors)
    return {
        "z": z,
        "c": c,
        "embed": embed,
        "embed_bias": embed_bias,
        "weights": _addresses(weights),
        "biases": _addresses(biases),
    }
