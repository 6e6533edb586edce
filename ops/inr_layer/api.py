"""Public entry points of `inr_layer` and `lattice_upsample`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import register_native
from ops.inr_layer import autograd, cpu, cpu_kernels, plain, reference
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps


def lattice_upsample(x: Tensor, *taps: AxisTaps | PointTaps, impl: str = "auto") -> Tensor:
    """Reads a lattice at the points of a finer grid: y = A_rows x A_cols^T per channel.

    Or at single points, y = A x with x as one row of values: `lattice_upsample(x, point_taps)`.

    Nearest taps give piecewise constant, bilinear taps piecewise linear images, without any
    clamping: which lattice entries exist is the plan's business (`networks.lattice`).

    Gradients: any order in x and in the weights of `PointTaps`.

    Args:
        x: Features [N, C, h, w]; with one or three axes [N, C, w] or [N, C, d, h, w].
        taps: Those of each axis in the order of the dimensions, so `rows, cols`: as many entries
            as x has along it, H or W points. Or those of P single points alone, with h w entries.
        impl: "auto", or "ref" for the definition.

    Returns:
        Features [N, C, H, W] ([N, C, W], [N, C, D, H, W]), or [N, C, 1, P], in the dtype of x.

    Raises:
        ValueError: If the taps belong to a lattice of another size.
    """
    sizes = [axis.size for axis in taps]
    if isinstance(taps[0], PointTaps):
        if sizes != [math.prod(x.shape[2:])]:
            raise ValueError(f"taps of {sizes[0]} values do not fit features {list(x.shape)}")
    elif sizes != list(x.shape[2:]):
        lattice = " x ".join(map(str, sizes))
        raise ValueError(f"taps of a {lattice} lattice do not fit features {list(x.shape)}")
    if impl == "ref":
        return reference.lattice_upsample(x, *taps)
    chosen, _reasons = _dispatch.choose("inr_layer", [x], impl)
    if chosen == "cpp" and _reads_in_cpp(x, taps):
        library = _dispatch.kernel_module("inr_layer", "cpp")
        if library.has("inr_tiles_upsample"):
            return cpu.upsample(library, x, taps)
    return plain.lattice_upsample(x, *taps)


def _reads_in_cpp(x: Tensor, taps: tuple[AxisTaps, ...] | tuple[PointTaps]) -> bool:
    """Whether the C++ function reads a lattice so: along two axes, without gradients."""
    if torch.compiler.is_compiling() or len(taps) != 2 or x.dtype == torch.bfloat16:
        return False
    if torch.is_grad_enabled() and x.requires_grad:
        return False
    return taps[0].index.shape[1] == taps[1].index.shape[1]


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
    """One 1x1 layer of a continuous image: y(p) = act(W [up(x)(p); e(p)] + b) * gain, clamped.

    Gradients: any order in weight, x, bias and the coordinate features.

    Shapes are those of two coordinates; with one or three, all have so many dimensions more or
    less, [N, O, W] or [N, O, D, H, W].

    Args:
        weight: Per-sample weights [N, O, I + E]: first the columns of x, then those of the
            coordinate features in the order of `CoordFeatures`.
        x: Features [N, I, h, w] on the lattice below (with taps) or on the output grid; None for
            a layer that reads coordinates only.
        bias: [O], one per image [N, O], or None.
        taps: Vertical and horizontal taps into the lattice of x (or as many as it has axes), or
            those of single points alone; None = x is on the output grid.
        coords: Coordinate features at the points of the output grid; None = no such input.
        act: Name of an activation of `ops.bias_act.activation_funcs`.
        gain: Factor after the activation; None = the activation's default (sqrt 2 for lrelu).
        clamp: Limit of |y| after the gain; None = no limit.
        impl: "auto"; "ref" for the definition (upsample, concatenate, multiply, activate); "cpp"
            for the C++ kernel or an error that says why not.

    Returns:
        Features [N, O, H, W] in the dtype of weight.

    Raises:
        ValueError: If the number of weight columns is not I + E, the bias does not fit, or x and
            coords are missing.
        RuntimeError: impl="cpp" cannot run.
    """
    if x is None and coords is None:
        raise ValueError("inr_layer needs features x, coordinate features, or both")
    num_inputs = (0 if x is None else x.shape[1]) + (coords.num_channels() if coords else 0)
    if weight.ndim != 3 or weight.shape[2] != num_inputs:
        raise ValueError(
            f"inr_layer: weight {list(weight.shape)} does not fit {num_inputs} input channels"
        )
    if bias is not None and tuple(bias.shape) not in (weight.shape[1:2], weight.shape[:2]):
        raise ValueError(f"inr_layer: bias {list(bias.shape)} for weight {list(weight.shape)}")
    options = {"taps": taps, "coords": coords, "act": act, "gain": gain, "clamp": clamp}
    if impl == "ref":
        return reference.inr_layer(weight, x, bias, **options)
    tensors = [weight, x, bias, *([] if coords is None else coords.parts())]
    chosen, _reasons = _dispatch.choose("inr_layer", tensors, impl)
    if chosen != "ref":
        library = _dispatch.kernel_module("inr_layer", chosen)
        kernels = autograd if library.has("inr_layer_forward") else cpu_kernels
        why_not = kernels.supports(weight, x, bias, **options)
        if why_not is None:
            return autograd.native_layer(chosen, weight, x, bias, **options)
        if impl == "cpp":
            raise RuntimeError(f"inr_layer: impl='cpp' cannot run: {why_not}")
    return plain.inr_layer(weight, x, bias, **options)


register_native(
    "inr_layer",
    headers=("inr_layer.h", "inr_tiles.h", "inr_chain.h"),
    cpu_sources=(
        "inr_tiles_cpu.cpp",
        "inr_tiles_backward_cpu.cpp",
        "inr_tiles_upsample_cpu.cpp",
        "inr_chain_forward_cpu.cpp",
        "inr_chain_backward_cpu.cpp",
    ),
    cuda_sources=("inr_layer_fwd.cu", "inr_layer_bwd.cu", "inr_layer_reduce.cu"),
)
