"""`inr_block` on CPUs with gradients, in C++: one call forward, one back.

The forward keeps the activations of all layers; the backward takes all gradients of first order.
Second and higher orders: where the backward itself is recorded (`create_graph=True`), it runs the
plain composition of PyTorch operations instead, which is differentiable to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import composed_gradients, room_for_gradients
from ops.inr_block import plain
from ops.inr_layer.cpu import Chain, chain_constants, chain_fields

_GRAD_WEIGHTS = ("grad_weight0", "grad_weight1", "grad_weight2", "grad_weight3")
_GRAD_BIASES = ("grad_bias0", "grad_bias1", "grad_bias2", "grad_bias3")
_GRAD_OTHERS = ("grad_rgb", "grad_rgb_bias", "grad_x", "grad_img", "grad_own")


class TrainingCall(NamedTuple):
    """What a call has besides differentiable tensors.

    Attributes:
        kernels: What it is computed with.
        chain: The call. The backward reads its taps, tables, shared features and options; the
            differentiable tensors are saved ones there, see `filled`.
    """

    kernels: BlockCall
    chain: Chain

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
        return plain.inr_block(*ordered, **chain, want_features=self.kernels.want_features)


def differentiable(chain: Chain) -> tuple[Tensor | None, ...]:
    """The tensors of a chain that `CpuBlock` differentiates by, in its order."""
    own = None if chain.coords is None else chain.coords.own
    return (*chain.layers, *chain.biases, chain.rgb, chain.rgb_bias, chain.x, chain.img, own)


def find_library(chain: Chain) -> Any | None:
    """The C++ library if it takes a call with gradients, whose shapes fit each other, else None."""
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
    chosen, _reasons = _dispatch.choose("inr_layer", [*chain.layers, chain.x])
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


class BlockCall:
    """The kernels for blocks with tensors of the same shapes.

    Args:
        library: Result of `find_library`.
        chain: One of them.
        want_features: Whether the features are wanted.
    """

    def __init__(self, library: Any, chain: Chain, want_features: bool) -> None:
        first, last, (height, width) = chain.layers[0], chain.layers[-1], chain.size()
        batch, fields = first.shape[0], chain_constants(chain)
        fields["saved_size"] = _saved_size(library, fields)
        self.want_features = want_features
        self._features = (batch, last.shape[1], height, width)
        self._image = (batch, chain.rgb.shape[1], height, width)
        self._saved = (batch, fields["saved_size"])
        self._forward = library.bind("inr_chain_forward", **fields)
        self._backward = library.bind("inr_chain_backward", **fields)

    def __call__(self, chain: Chain) -> tuple[Tensor | None, Tensor]:
        """Features [N, O, H, W] or None, and the image [N, C, H, W]; gradients of any order."""
        return CpuBlock.apply(TrainingCall(self, chain), *differentiable(chain))

    def forward(self, chain: Chain) -> tuple[Tensor | None, Tensor, Tensor]:
        """Features or None, the image, and what the backward reads. No gradients."""
        first = chain.layers[0]
        features = first.new_empty(self._features) if self.want_features else None
        image, saved = first.new_empty(self._image), first.new_empty(self._saved)
        self._forward(features=features, image=image, saved=saved, **chain_fields(chain))
        return features, image, saved

    def backward(
        self,
        chain: Chain,
        saved: Tensor,
        grads: tuple[Tensor | None, Tensor | None],
        needed: Sequence[bool],
    ) -> list[Tensor | None]:
        """First gradients of those of `differentiable` that are needed.

        Args:
            chain: The call.
            saved: As `forward` gave it.
            grads: Gradients of features and image; None = 0.
            needed: Which of `differentiable` are.
        """
        count = len(chain.layers)
        found = room_for_gradients(differentiable(chain), needed)
        grad_features, grad_image = (None if grad is None else grad.contiguous() for grad in grads)
        if grad_image is None:
            found[2 * count + 3] = None
        # What hooks of saved tensors return may lie otherwise.
        saved, fields = saved.contiguous(), chain_fields(chain)
        fields.update(zip(_GRAD_WEIGHTS, found[:count]))
        fields.update(zip(_GRAD_BIASES, found[count : 2 * count]))
        fields.update(zip(_GRAD_OTHERS, found[2 * count :]))
        self._backward(saved=saved, grad_features=grad_features, grad_image=grad_image, **fields)
        return found


class CpuBlock(torch.autograd.Function):
    """(features, image) of a block: first order in C++, higher orders by composition."""

    @staticmethod
    def forward(ctx, call: TrainingCall, *tensors):
        features, image, saved = call.kernels.forward(call.chain)
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
        return None, *ctx.call.kernels.backward(ctx.call.filled(tensors), saved, grads, needed)


def _saved_size(library: Any, fields: dict[str, Any]) -> int:
    """Elements per image that the backward reads."""
    size = torch.zeros(1, dtype=torch.int64)
    library.call("inr_chain_saved_size", size_out=size, **fields)
    return int(size)
