"""Public entry points of `inr_layer` and `lattice_upsample`."""

from __future__ import annotations

import math

from torch import Tensor

from ops import _dispatch
from ops.inr_layer import plain, reference
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
    _dispatch.choose("inr_layer", [x, taps[0].index], impl)
    path = reference if impl == "ref" else plain
    return path.lattice_upsample(x, *taps)


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
        impl: "auto", or "ref" for the definition (upsample, concatenate, multiply, activate).

    Returns:
        Features [N, O, H, W] in the dtype of weight.

    Raises:
        ValueError: If the number of weight columns is not I + E, the bias does not fit, or x and
            coords are missing.
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
    _dispatch.choose("inr_layer", [weight, x, bias], impl)
    path = reference if impl == "ref" else plain
    return path.inr_layer(
        weight, x, bias, taps=taps, coords=coords, act=act, gain=gain, clamp=clamp
    )
