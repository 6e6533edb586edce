"""`inr_block` on CPUs with gradients, in C++: one call forward, one back.

The forward keeps the activations of all layers; the backward takes all gradients of first order.
Second and higher orders: where the backward itself is recorded (`create_graph=True`), it runs the
plain composition of PyTorch operations instead, which is differentiable to any order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import composed_gradients, room_for_gradients
from ops.bias_act.kernels import LEAKY_SLOPES
from ops.inr_block import plain
from ops.inr_layer.cpu import Chain, coord_fields, tap_fields

_GRAD_WEIGHTS = ("grad_weight0", "grad_weight1", "grad_weight2", "grad_weight3")
_GRAD_BIASES = ("grad_bias0", "grad_bias1", "grad_bias2", "grad_bias3")


class TrainingCall(NamedTuple):
    """What a call has besides differentiable tensors.

    Attributes:
        library: The C++ library of `inr_layer`.
        chain: The call. The backward reads its taps, tables, shared features and options; the
            differentiable tensors are saved ones there, see `filled`.
        want_features: Whether the features are wanted.
    """

    library: Any
    chain: Chain
    want_features: bool

    def filled(self, tensors: Sequence[Tensor | None]) -> Chain:
        """The chain with other differentiable tensors, those of `differentiable`."""
        count = len(self.chain.layers)
        rgb, rgb_bias, x, img, own = tensors[2 * count :]
        coords = self.chain.coords
        return self.chain._replace(
            layers=tensors[:count],
            biases=tensors[count : 2 * count],
            rgb=rgb,
            rgb_bias=rgb_bias,
            x=x,
            img=img,
            coords=None if coords is None else coords._replace(own=own),
        )

    def composed(self, *tensors: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """The block by PyTorch's operations, of the tensors of `differentiable`."""
        chain = self.filled(tensors)._asdict()
        ordered = [chain.pop(name) for name in ("layers", "biases", "rgb", "rgb_bias", "x", "img")]
        return plain.inr_block(*ordered, **chain, want_features=self.want_features)


def differentiable(chain: Chain) -> tuple[Tensor | None, ...]:
    """The tensors of a chain that `block_with_gradients` differentiates by, in its order."""
    own = None if chain.coords is None else chain.coords.own
    return (*chain.layers, *chain.biases, chain.rgb, chain.rgb_bias, chain.x, chain.img, own)


def find_library(chain: Chain, impl: str = "auto") -> Any | None:
    """The C++ library if it takes a call with gradients, else None.

    Args:
        chain: The call, whose shapes fit each other.
        impl: As of `ops.inr_block.inr_block`.
    """
    if _dispatch.is_traced():
        return None
    if not chain.resolved_gain() > 0 or chain.unsupported() or not _is_plain_data(chain):
        return None
    if chain.layers[0].dtype == torch.bfloat16:
        # Its precision is that of features rounded after each layer.
        return None
    # Threads take whole images.
    if chain.layers[0].shape[0] < torch.get_num_threads():
        return None
    chosen, _reasons = _dispatch.choose("inr_layer", [*chain.layers, chain.x], impl)
    if chosen != "cpp":
        return None
    library = _dispatch.kernel_module("inr_layer", "cpp")
    return library if library.has("inr_chain_backward") else None


def _is_plain_data(chain: Chain) -> bool:
    """Whether what `CpuBlock` is not told of has no gradient, and sizes are those of memory."""
    coords, taps = chain.coords, chain.taps or ()
    fixed = [] if coords is None else coords.without_own().parts()
    if any(tensor.requires_grad for tensor in [*fixed, *(axis.weight for axis in taps)]):
        return False
    below = [axis.size for axis in taps] or list(chain.size())
    for tensor in (chain.x, chain.img):
        if tensor is not None and list(tensor.shape[2:]) != below:
            return False
    return all(t is None or t.numel() > 0 for t in (*differentiable(chain), *fixed))


def block_with_gradients(
    library: Any, chain: Chain, want_features: bool
) -> tuple[Tensor | None, Tensor]:
    """A block for a call that `find_library` has found a library for.

    Args:
        library: Result of `find_library`.
        chain: The call.
        want_features: Whether the features are wanted.

    Returns:
        Features [N, O, H, W] or None, and the image [N, C, H, W]; gradients of any order.
    """
    call = TrainingCall(library, chain, want_features)
    return CpuBlock.apply(call, *differentiable(chain))


def _run_forward(
    library: Any, chain: Chain, want_features: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Features [N, O, H, W] or None, the image, and what the backward reads."""
    first, (height, width) = chain.layers[0], chain.size()
    batch, last = first.shape[0], chain.layers[-1].shape[1]
    outs = tuple(weight.shape[1] for weight in chain.layers)
    size = _saved_size(library, outs, height, width, first.dtype)
    saved = first.new_empty([batch, size])
    features = first.new_empty([batch, last, height, width]) if want_features else None
    image = first.new_empty([batch, chain.rgb.shape[1], height, width])
    library.call(
        "inr_chain_forward",
        features=features,
        image=image,
        saved=saved,
        saved_size=size,
        **_fields(chain),
    )
    return features, image, saved


class CpuBlock(torch.autograd.Function):
    """(features, image) of a block: first order in C++, higher orders by composition."""

    @staticmethod
    def forward(ctx, call: TrainingCall, *tensors):
        features, image, saved = _run_forward(call.library, call.chain, call.want_features)
        ctx.set_materialize_grads(False)
        ctx.call = call
        ctx.save_for_backward(*tensors, saved)
        return features, image

    @staticmethod
    def backward(ctx, grad_features, grad_image):
        *tensors, saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if grad_features is None and grad_image is None:
            return (None,) * (1 + len(tensors))
        grads = (grad_features, grad_image)
        if torch.is_grad_enabled():
            return None, *composed_gradients(
                ctx.call.composed, tensors, needed, grads, allow_unused=True
            )
        return None, *_first_order(ctx.call, tensors, needed, grads, saved)


@functools.lru_cache(maxsize=1024)
def _saved_size(
    library: Any, outs: tuple[int, ...], height: int, width: int, dtype: torch.dtype
) -> int:
    """Elements per image that the backward reads."""
    size = torch.zeros(1, dtype=torch.int64)
    fields = {f"out{index}": out for index, out in enumerate(outs)}
    fields |= {"layers": len(outs), "height": height, "width": width, "dtype": dtype}
    library.call("inr_chain_saved_size", size_out=size, **fields)
    return int(size)


def _fields(chain: Chain) -> dict[str, Any]:
    """The fields of the params that both directions have."""
    height, width = chain.size()
    fields: dict[str, Any] = {
        "layers": len(chain.layers),
        "dtype": chain.layers[0].dtype,
        "batch": chain.layers[0].shape[0],
        "colours": chain.rgb.shape[1],
        "height": height,
        "width": width,
        "rgb": chain.rgb.contiguous(),
        "rgb_bias": chain.rgb_bias.contiguous(),
        "threads": torch.get_num_threads(),
        "slope": LEAKY_SLOPES[chain.act],
        "gain": chain.resolved_gain(),
        "clamp": -1.0 if chain.clamp is None else chain.clamp,
    }
    for index, (weight, bias) in enumerate(zip(chain.layers, chain.biases, strict=True)):
        fields[f"weight{index}"] = weight.contiguous()
        fields[f"out{index}"] = weight.shape[1]
        fields[f"bias{index}"] = bias.contiguous()
        fields[f"bias_stride{index}"] = weight.shape[1] if bias.ndim == 2 else 0
    if chain.x is not None:
        fields |= {"x": chain.x.contiguous(), "in_channels": chain.x.shape[1]}
    if chain.img is not None:
        fields["img"] = chain.img.contiguous()
    if chain.taps is not None:
        fields |= tap_fields(chain.taps, chain.sum_dtype())
        fields |= {"low_height": chain.taps[0].size, "low_width": chain.taps[1].size}
    return fields | coord_fields(chain.coords)


def _first_order(
    call: TrainingCall,
    tensors: Sequence[Tensor | None],
    needed: tuple[bool, ...],
    grads: tuple[Tensor | None, Tensor | None],
    saved: Tensor,
) -> list[Tensor | None]:
    """Gradients of those of `differentiable` that are needed, in C++."""
    chain = call.filled(tensors)
    count = len(chain.layers)
    results = room_for_gradients(tensors, needed)
    of_rgb, of_rgb_bias, of_x, of_img, of_own = results[2 * count :]
    grad_features, grad_image = (None if grad is None else grad.contiguous() for grad in grads)
    if grad_image is None and of_img is not None:
        results[2 * count + 3] = of_img = None
    call.library.call(
        "inr_chain_backward",
        saved=saved,
        saved_size=saved.shape[1],
        grad_features=grad_features,
        grad_image=grad_image,
        grad_rgb=of_rgb,
        grad_x=of_x,
        grad_img=of_img,
        grad_own=of_own,
        grad_rgb_bias=of_rgb_bias,
        **dict(zip(_GRAD_WEIGHTS, results[:count])),
        **dict(zip(_GRAD_BIASES, results[count : 2 * count])),
        **_fields(chain),
    )
    return results
