"""Public face of the op `conv_layer`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ops import _dispatch
from ops._native import register_native
from ops.conv_layer import kernels, plain, reference
from ops.conv_layer.autograd import ConvLayer, LayerCall

register_native(
    "conv_layer",
    cpu_sources=("conv_layer_cpu.cpp", "conv_layer_winograd_cpu.cpp"),
    dtypes=(torch.float32,),
)


def conv_layer(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    flip_weight: bool = True,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    weight_gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """y = bias_act(conv2d_resample(x, weight_gain * w, f), b), a whole layer.

    On a CPU, layers whose images fit a core's cache run as one kernel forward and one backward.

    Args:
        x: [N, I, H, W], floating point.
        w: [O, I, kh, kw], cast to the dtype of `x` after `weight_gain`.
        b: [O], cast to the dtype of `x`. None = no bias.
        f, up, down, padding, flip_weight: As for `ops.conv2d_resample.conv2d_resample`.
        act, alpha, gain, clamp: As for `ops.bias_act.bias_act`.
        weight_gain: Factor of `w`.
        impl: "auto" | "ref" | "cuda" | "cpp", see `ops._dispatch.choose`.

    Returns:
        [N, O, H', W'], dtype of `x`.

    Raises:
        ValueError, TypeError: As the two ops.
        RuntimeError: impl="cpp", and the kernel does not take the call.

    Orders of gradient: x, w and b: 1st by a kernel where one runs, all others composed of the ops.
    """
    choice = _dispatch.choose("conv_layer", (x, w, b), impl)[0]
    options = {"f": f, "padding": padding, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
    options |= {"down": down, "weight_gain": weight_gain}
    if choice == "cpp" and _is_plain_layer(x, w, b, up, flip_weight):
        described = kernels.options_of(x, w, **options)
        if described is not None and (impl == "cpp" or kernels.pays(x, w, described)):
            return ConvLayer.apply(x, w, b, LayerCall(described, options))
    if impl == "cpp":
        raise RuntimeError(
            "conv_layer: impl='cpp' cannot run: the kernel takes square kernels, a separable "
            "filter, padding of at least 0, linear, relu and lrelu, and does not upsample"
        )
    module = reference if impl == "ref" else plain
    return module.conv_layer(x, w, b, up=up, flip_weight=flip_weight, impl=impl, **options)


def _is_plain_layer(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, up: int, flip_weight: bool
) -> bool:
    """Whether shapes fit each other and nothing asks for another way."""
    return (
        up == 1
        and flip_weight
        and x.ndim == w.ndim == 4
        and x.shape[1] == w.shape[1]
        and (b is None or b.shape == w.shape[:1])
        and 0 not in x.shape
        and 0 not in w.shape
        and not _dispatch.is_traced()
    )
