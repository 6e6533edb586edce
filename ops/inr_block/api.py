"""Public entry point of `inr_block`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import register_native
from ops.inr_block import by_layers, native, plain, reference, tiles, training
from ops.inr_layer.cpu import Chain, ChainCall
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps

register_native(
    "inr_block",
    header="inr_block.h",
    cuda_sources=("inr_block.cu",),
    cuda_dtypes=(torch.float16, torch.bfloat16, torch.float32),  # float32: colours
)


def inr_block(
    layers: Sequence[Tensor],  # [N, O, I (+ E)] each
    biases: Sequence[Tensor],  # [O] or [N, O] each
    rgb: Tensor,  # [N, C, O]
    rgb_bias: Tensor,  # [C]
    x: Tensor | None = None,  # [N, I, h, w]
    img: Tensor | None = None,  # [N, C, h, w]
    *,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    want_features: bool = True,
    impl: str = "auto",
) -> tuple[Tensor | None, Tensor]:  # [N, O, H, W], [N, C, H, W]
    """One block of a continuous image: a few 1x1 layers, to-RGB, and the image of the block below.

    x_1 = act(W_1 [up(x)(p); e(p)] + b_1) * gain, x_k = act(W_k x_{k-1} + b_k) * gain, each clamped;
    image = clamp(W_rgb x_K + b_rgb) + up(img)(p).

    Gradients: any order in all tensors, by the composition of `ops.inr_layer`.

    Shapes are those of two coordinates; with one or three, x, img and the results have so many
    dimensions more or less.

    Args:
        layers: Per-sample weights, those of the first layer [N, O, I + E] as of
            `ops.inr_layer.inr_layer`, those of the others [N, O, O].
        biases: Per layer [O], or one per image, [N, O].
        rgb: Weights of to-RGB [N, C, O].
        rgb_bias: [C], in the dtype of the image (float32 as a rule).
        x: Features of the block below [N, I, h, w], or [N, I, H, W] without taps; None for a block
            that reads coordinates only.
        img: Image of the block below [N, C, h, w] (or [N, C, H, W]) in the dtype of rgb_bias, or
            None.
        taps: How x and img are read, see `ops.inr_layer.inr_layer`.
        coords: Coordinate features that the first layer reads; None = no such input.
        act: Name of an activation of `ops.bias_act.activation_funcs`.
        gain: Factor after the activation; None = the activation's default (sqrt 2 for lrelu).
        clamp: Limit of |x_k| and of |W_rgb x_K + b_rgb|; None = no limit.
        want_features: Whether the features are wanted; the last block's are not.
        impl: "auto", or "ref" for the definition.

    Returns:
        Features [N, O, H, W] in the dtype of the weights (None unless wanted), and the image
        [N, C, H, W] in the dtype of rgb_bias.

    Raises:
        ValueError: If shapes do not fit, or there is no layer, or x and coords are missing.
    """
    args = (layers, biases, rgb, rgb_bias, x, img)
    # Numbers: a tensor may change between two calls that look the same.
    gain, clamp = (None if value is None else float(value) for value in (gain, clamp))
    kwargs = {"taps": taps, "coords": coords, "act": act, "gain": gain, "clamp": clamp}
    chain = Chain(*args, **kwargs)
    if impl != "ref" and layers and layers[0].is_cpu and not _dispatch.is_traced():
        call = _find_cpu_call(chain, want_features)
        if call is not None:
            return call(chain)
    _check_shapes(*args, taps, coords)
    if impl == "ref":
        return reference.inr_block(*args, **kwargs, want_features=want_features)
    if not _wants_gradient(chain):
        # The quick question first; the last one, `choose`, may build the kernel.
        announced = impl == "cpp" or _dispatch.is_announced("inr_block", layers[0])
        has_dtype = announced and layers[0].dtype in native.DTYPES
        if has_dtype and native.supports(*args, **kwargs) is None:
            parts = [] if coords is None else coords.parts()
            tensors = [*layers, *biases, rgb, rgb_bias, x, img, *parts]
            chosen, _reasons = _dispatch.choose("inr_block", tensors, impl)
            if chosen != "ref":
                return native.block_forward(chosen, *args, **kwargs, want_features=want_features)
        if tiles.supports(chain):
            return tiles.block_on_cpu(chain, want_features)
        found = by_layers.find_impl(chain)
        if found is not None:
            return by_layers.block_by_layers(found, chain, want_features)
    return plain.inr_block(*args, **kwargs, want_features=want_features)


def _find_cpu_call(chain: Chain, want_features: bool) -> Callable[[Chain], Any] | None:
    """The C++ kernels bound to calls with tensors like these; None = they are not what runs."""

    def find() -> Callable[[Chain], Any] | None:
        _check_shapes(*chain[:8])
        if chain.layers[0].dtype in native.DTYPES:
            # What is fastest is another question there.
            return None
        if _wants_gradient(chain):
            library = training.find_library(chain)
            return None if library is None else training.BlockCall(library, chain, want_features)
        library = tiles.find_library(chain) if tiles.supports(chain) else None
        return None if library is None else ChainCall(library, chain, want_features)

    axes = tuple((type(axis), axis.size) for axis in chain.taps or ())
    counts = (len(chain.layers), len(chain.biases), chain.taps is None, chain.coords is None)
    question = (bool(want_features), *counts, axes, *chain[8:])
    return _dispatch.remembered("inr_layer", question, chain.tensors(), find)


def _wants_gradient(chain: Chain) -> bool:
    found = [tensor for tensor in chain.tensors() if tensor is not None]
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in found)


def _check_shapes(
    layers: Sequence[Tensor],
    biases: Sequence[Tensor],
    rgb: Tensor,
    rgb_bias: Tensor,
    x: Tensor | None,
    img: Tensor | None,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None,
    coords: CoordFeatures | None,
) -> None:
    if x is None and coords is None:
        raise ValueError("inr_block needs features x, coordinate features, or both")
    if not layers or len(layers) != len(biases):
        raise ValueError(f"inr_block: {len(layers)} layers and {len(biases)} biases")
    num_inputs = (0 if x is None else x.shape[1]) + (coords.num_channels() if coords else 0)
    batch = layers[0].shape[0]
    for index, (weight, bias) in enumerate(zip(layers, biases)):
        if weight.ndim != 3 or weight.shape[0] != batch or weight.shape[2] != num_inputs:
            raise ValueError(
                f"inr_block: weight {list(weight.shape)} of layer {index} does not fit a batch of "
                f"{batch} with {num_inputs} input channels"
            )
        if tuple(bias.shape) not in (weight.shape[1:2], weight.shape[:2]):
            raise ValueError(
                f"inr_block: bias {list(bias.shape)} of layer {index}, whose weight is "
                f"{list(weight.shape)}"
            )
        num_inputs = weight.shape[1]
    if rgb.ndim != 3 or rgb.shape[0] != batch or rgb.shape[2] != num_inputs:
        raise ValueError(
            f"inr_block: rgb {list(rgb.shape)} does not fit a batch of {batch} with {num_inputs} "
            "channels"
        )
    if tuple(rgb_bias.shape) != (rgb.shape[1],):
        raise ValueError(f"inr_block: rgb_bias {list(rgb_bias.shape)} for rgb {list(rgb.shape)}")
    if img is not None and tuple(img.shape[:2]) != tuple(rgb.shape[:2]):
        raise ValueError(f"inr_block: img {list(img.shape)} does not fit rgb {list(rgb.shape)}")
    _check_points(batch, x, img, taps, coords)


def _check_points(
    batch: int,
    x: Tensor | None,
    img: Tensor | None,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None,
    coords: CoordFeatures | None,
) -> None:
    """Kernels read what sizes say, whether it is there or not."""
    own = None if coords is None else coords.own
    for name, tensor in (("x", x), ("img", img), ("own features", own)):
        if tensor is not None and tensor.shape[0] != batch:
            raise ValueError(f"inr_block: {name} {list(tensor.shape)} for a batch of {batch}")
    size = None if x is None else list(x.shape[2:])
    if taps is not None:
        lattice = [axis.size for axis in taps]
        for name, below in (("x", x), ("img", img)):
            cells = lattice if below is None else list(below.shape[2:])
            if lattice not in (cells, [math.prod(cells)]):
                raise ValueError(
                    f"inr_block: taps into {lattice} cells cannot read {name} {list(below.shape)}"
                )
        size = [axis.index.shape[0] for axis in taps]
        size = [1, *size] if isinstance(taps[0], PointTaps) else size
    elif img is not None and list(img.shape[2:]) != (size or list(coords.grid_size())):
        raise ValueError(f"inr_block: img {list(img.shape)} does not lie where the features do")
    if coords is not None:
        _check_features(coords, size or list(coords.grid_size()))


def _check_features(coords: CoordFeatures, size: list[int]) -> None:
    # Tables have one axis, the last one first, of those that there are; the others have all.
    axes = [*([side] for side in reversed(size)), None, None][:3]
    tables = zip((coords.cols, coords.rows, coords.slices), axes)
    found = [(table, 1, axis) for table, axis in tables]
    found += [(coords.shared, 1, size), (coords.own, 2, size)]
    if any(part is not None and list(part.shape[skip:]) != sides for part, skip, sides in found):
        shapes = ", ".join(str(list(part.shape)) for part in coords.parts())
        raise ValueError(f"inr_block: features {shapes} do not fit a grid of {size} points")
