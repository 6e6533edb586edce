"""Calls of the ops of continuous images, for `ops.registry`: everything as tensors by name.

What is no tensor in the ops' signatures (taps, coordinate features, lists) is put together here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ops.fourier import fourier
from ops.fourier.reference import fourier as ref_fourier
from ops.inr_block import inr_block
from ops.inr_block.reference import inr_block as ref_inr_block
from ops.inr_layer import AxisTaps, CoordFeatures, inr_layer
from ops.inr_layer.reference import inr_layer as ref_inr_layer
from ops.inr_weights import inr_weights
from ops.inr_weights.reference import inr_weights as ref_inr_weights

Shapes = dict[str, tuple[int, ...]]
_COORDS = ("cols", "rows", "shared", "own")


def doubling_taps(cells: int, mode: str, device: torch.device | str = "cpu") -> AxisTaps:
    """How twice as many cells read the lattice below, along one axis.

    Args:
        cells: Cells of the lattice below; with "bilinear", one more at each end is read.
        mode: "nearest" or "bilinear".
        device: Of the tensors.
    """
    fine = torch.arange(2 * cells, device=device)
    if mode == "nearest":
        weight = torch.ones(2 * cells, 1, device=device)
        return AxisTaps((fine // 2)[:, None], weight, cells, doubling=0)
    # Centres of fine cells among those of the cells below, of which the first is the one outside.
    position = (fine + 0.5) / 2 + 0.5
    left = position.floor().long()
    right = position - left
    weight = torch.stack([1 - right, right], 1)
    return AxisTaps(torch.stack([left, left + 1], 1), weight, cells + 2, doubling=2)


def _taps(below: Tensor | None, up: str | None) -> tuple[AxisTaps, ...] | None:
    if below is None or up is None:
        return None
    outside = 0 if up == "nearest" else 2
    return tuple(doubling_taps(n - outside, up, below.device) for n in below.shape[2:])


def _coords(tensors: dict[str, Tensor]) -> CoordFeatures | None:
    parts = {name: tensors.pop(name) for name in _COORDS if name in tensors}
    return CoordFeatures(**parts) if parts else None


def _scaled(weight: Tensor) -> Tensor:
    """A weight for results as large as the inputs; float16 ends at 65504."""
    return weight * weight.shape[-1] ** -0.5


def _layer(function: Callable[..., Tensor], up: str | None = None, **arguments) -> Tensor:
    coords, weight = _coords(arguments), _scaled(arguments.pop("weight"))
    taps = _taps(arguments.get("x"), up)
    return function(weight, taps=taps, coords=coords, **arguments)


def _block(
    function: Callable[..., tuple[Tensor | None, Tensor]], up: str | None = None, **arguments
) -> Tensor:
    coords = _coords(arguments)
    count = sum(name.startswith("weight") for name in arguments)
    features, image = function(
        [_scaled(arguments.pop(f"weight{index}")) for index in range(count)],
        [arguments.pop(f"bias{index}") for index in range(count)],
        _scaled(arguments.pop("rgb")),
        taps=_taps(arguments.get("x"), up),
        coords=coords,
        **arguments,
    )
    return image if features is None else torch.cat([features, image], 1)


def _weights(
    function: Callable[..., tuple[Sequence[Tensor], Tensor]], ws: Tensor, **arguments
) -> Tensor:
    count = sum(name.startswith("weight") for name in arguments)
    layers, affines, biases = (
        [arguments.pop(f"{name}{index}") for index in range(count)]
        for name in ("weight", "affine", "affine_bias")
    )
    rgb = [arguments.pop(name) for name in ("rgb", "rgb_affine", "rgb_bias")]
    predict = [arguments.pop(name) for name in ("predict", "predict_bias") if name in arguments]
    arguments["predict"] = tuple(predict) or None
    weights, *more = function(ws, layers, list(zip(affines, biases)), rgb[0], rgb[1:], **arguments)
    results = [*weights, *(result for result in more if result is not None)]
    return torch.cat([result.flatten(1) for result in results], 1)


INR_FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "fourier": (fourier, ref_fourier),
    "inr_layer": (functools.partial(_layer, inr_layer), functools.partial(_layer, ref_inr_layer)),
    "inr_block": (functools.partial(_block, inr_block), functools.partial(_block, ref_inr_block)),
    "inr_weights": (
        functools.partial(_weights, inr_weights),
        functools.partial(_weights, ref_inr_weights),
    ),
}
"""(public function, definition) by name; several results are joined."""


def inr_calls() -> list[tuple[str, str, Shapes, dict, bool]]:
    """(op, name, shapes, options, whether it is small) of every call.

    No clamp bites: rounding would decide for some values on which side they are, and so for their
    gradients. That they clip is for the tests of each op.
    """
    return [*_fourier_calls(), *_layer_calls(), *_block_calls(), *_weights_calls()]


def _fourier_calls() -> list[tuple[str, str, Shapes, dict, bool]]:
    grid: Shapes = {"u": (5,), "v": (4,)}
    large: Shapes = {"u": (32,), "v": (32,), "rows": (8, 64, 2), "phase": (8, 64)}
    return [
        ("fourier", "shared", {**grid, "rows": (6, 2)}, {}, True),
        ("fourier", "own", {**grid, "rows": (2, 3, 2), "phase": (2, 3)}, {}, True),
        ("fourier", "g32", large, {}, False),
    ]


def _layer_calls() -> list[tuple[str, str, Shapes, dict, bool]]:
    lrelu = {"act": "lrelu"}
    parts: Shapes = {"cols": (3, 6), "rows": (1, 4), "shared": (2, 4, 6), "own": (2, 1, 4, 6)}

    def call(name: str, weight: tuple[int, ...], options: dict, small: bool = True, **more):
        return "inr_layer", name, {"weight": weight, **more}, options, small

    return [
        call("coords", (2, 5, 7), lrelu, bias=(5,), **parts),
        call("hidden", (2, 5, 7), {"act": "relu", "gain": 0.5}, x=(2, 7, 3, 5), bias=(2, 5)),
        call("linear", (3, 1, 3), {}, x=(3, 3, 1, 1)),
        call("nearest", (2, 5, 10), {"up": "nearest", **lrelu}, x=(2, 3, 2, 3), **parts),
        call(
            "bilinear", (2, 5, 7), {"up": "bilinear", "clamp": 256, **lrelu}, x=(2, 3, 4, 5),
            cols=(3, 6), rows=(1, 4), bias=(5,),
        ),
        call("w128", (2, 128, 128), lrelu, False, x=(2, 128, 24, 40), bias=(128,)),
        call(
            "w128-first", (2, 128, 192), {"up": "nearest", "clamp": 256, **lrelu}, False,
            x=(2, 128, 12, 20), shared=(48, 24, 40), cols=(8, 40), rows=(8, 24), bias=(128,),
        ),
    ]  # fmt: skip


def _block_calls() -> list[tuple[str, str, Shapes, dict, bool]]:
    first: Shapes = {
        **{"weight0": (2, 5, 3), "weight1": (2, 5, 5), "bias0": (5,), "bias1": (5,)},
        **{"rgb": (2, 3, 5), "rgb_bias": (3,), "cols": (2, 5), "shared": (1, 4, 5)},
    }
    small: Shapes = {
        **{"weight0": (2, 4, 6), "weight1": (2, 4, 4), "bias0": (4,), "bias1": (2, 4)},
        **{"rgb": (2, 3, 4), "rgb_bias": (3,), "x": (2, 3, 6, 5), "img": (2, 3, 6, 5)},
        **{"cols": (1, 6), "rows": (1, 8), "shared": (1, 8, 6)},
    }
    large: Shapes = {
        **{"weight0": (2, 128, 192), "weight1": (2, 128, 128), "bias0": (128,), "bias1": (128,)},
        **{"rgb": (2, 3, 128), "rgb_bias": (3,), "x": (2, 128, 12, 20), "img": (2, 3, 12, 20)},
        **{"cols": (16, 40), "rows": (16, 24), "shared": (32, 24, 40)},
    }
    last = {"up": "bilinear", "want_features": False}
    return [
        ("inr_block", "first", first, {}, True),
        ("inr_block", "last", small, {**last, "clamp": 256}, True),
        ("inr_block", "w128", large, {"up": "nearest", "clamp": 256}, False),
    ]


def weights_call(
    name: str,
    n: int,
    width: int,
    sizes: Sequence[tuple[int, int]],
    rank: int,
    colours: int,
    activation: str = "demod",
    predicted: int = 0,
    small: bool = True,
) -> tuple[str, str, Shapes, dict, bool]:
    """A call of `inr_weights` for layers of sizes (O, I), as in the result of `inr_calls`."""
    shapes: Shapes = {"ws": (n, len(sizes) + 1, width)}
    for index, (out, inp) in enumerate(sizes):
        shapes[f"weight{index}"] = (out, inp)
        shapes[f"affine{index}"] = ((out + inp) * rank, width)
        shapes[f"affine_bias{index}"] = ((out + inp) * rank,)
    channels = sizes[-1][0]
    shapes |= {"rgb": (colours, channels), "rgb_affine": (channels, width)}
    shapes["rgb_bias"] = (channels,)
    if predicted:
        shapes |= {"predict": (predicted, width), "predict_bias": (predicted,)}
    return "inr_weights", name, shapes, {"activation": activation}, small


def _weights_calls() -> list[tuple[str, str, Shapes, dict, bool]]:
    call = weights_call
    return [
        call("one-layer", 1, 32, [(3, 2)], 1, 1),
        call("two-layers", 3, 32, [(5, 7), (4, 5)], 3, 3, "half-sigmoid"),
        call("predicted", 2, 32, [(3, 4), (3, 3)], 2, 1, predicted=5),
        call("tiny", 32, 128, [(64, 152), *[(64, 64)] * 3], 10, 1, predicted=192, small=False),
        call("wide", 8, 512, [(512, 552), (512, 512)], 10, 3, small=False),
    ]
