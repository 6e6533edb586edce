"""Public face of the op `inr_weights`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import register_native
from ops.fmm.api import check_activation
from ops.inr_weights import autograd, kernels, reference

register_native(
    "inr_weights",
    cpu_sources=("inr_weights_cpu.cpp", "inr_weights_bwd_cpu.cpp"),
    also_read=("../fmm/fmm.h", "../fmm/fmm_rows.h", "../fmm/fmm_gradients.h"),
    dtypes=(torch.float32, torch.float64),
    unsupported=kernels.why_not,
)


def inr_weights(
    ws: Tensor,  # [N, K + 1, D]
    layers: Sequence[Tensor],  # K of [O, I]
    affines: Sequence[tuple[Tensor, Tensor]],  # K of [(O + I) r, D] and [(O + I) r]
    rgb: Tensor,  # [C, O]
    rgb_affine: tuple[Tensor, Tensor],  # [O, D] and [O]
    activation: str = "demod",
    predict: tuple[Tensor, Tensor] | None = None,  # [R, D] and [R]
    impl: str = "auto",
) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:  # K of [N, O, I]; [N, C, O]; [N, R]
    """Composes the weights of a block's layers and of its to-RGB from w.

    With the styles s_k = w_k A_k^T / sqrt(D) + b_k: of a layer, s is its factors a [O, r] and
    b [r, I], and its weight is that of `ops.fmm.fmm` (INR-GAN, section 3.2). To-RGB is
    rgb * s / sqrt(O) (StyleGAN2, without demodulation). What is predicted is an s of the first w.

    On a CPU all layers run as one kernel forward and one backward.

    Gradients: 1st order by the kernel where it runs, higher ones composed of `affine` and `fmm`.

    Args:
        ws: One w per layer, then that of to-RGB; floating point.
        layers: Shared weights, of the same dtype.
        affines: Per layer A and b; their rows tell the rank r.
        rgb: Shared weight of to-RGB; O is that of the last layer.
        rgb_affine: A and b of to-RGB.
        activation: A name of `ops.fmm.FMM_ACTIVATIONS`.
        predict: A and b of what else is predicted from the first w; None = nothing.
        impl: "auto", "ref" or "cpp", see `ops._dispatch.choose`.

    Returns:
        Weights of the layers, of to-RGB, and what is predicted.

    Raises:
        ValueError: If the shapes do not fit each other or the activation is unknown.
        RuntimeError: impl="cpp", and the kernel does not take the call.
    """
    args = (ws, layers, affines, rgb, rgb_affine, predict)
    if _dispatch.is_traced():
        if impl == "cpp":
            raise RuntimeError("inr_weights: impl='cpp' cannot run under autocast or torch.compile")
        _check(args, activation)
    else:
        tensors = kernels.flat(*args)

        def find_call() -> kernels.WeightsCall | None:
            _check(args, activation)
            chosen, _reasons = _dispatch.choose("inr_weights", tensors, impl)
            return kernels.WeightsCall(tensors, activation) if chosen == "cpp" else None

        question = (impl, activation, len(layers), len(affines), predict is None)
        call = _dispatch.remembered("inr_weights", question, tensors, find_call)
        if call is not None:
            return autograd.native_weights(call, tensors)
    return reference.inr_weights(ws, layers, affines, rgb, rgb_affine, activation, predict, impl)


def _check(args: tuple, activation: str) -> None:
    _check_shapes(*args)
    check_activation(activation)


def _check_shapes(
    ws: Tensor,
    layers: Sequence[Tensor],
    affines: Sequence[tuple[Tensor, Tensor]],
    rgb: Tensor,
    rgb_affine: tuple[Tensor, Tensor],
    predict: tuple[Tensor, Tensor] | None,
) -> None:
    count = len(layers)
    if count == 0 or len(affines) != count or ws.ndim != 3 or ws.shape[1] != count + 1:
        raise ValueError(
            f"inr_weights needs one w per layer and one of to-RGB, ws [N, K + 1, D], got "
            f"{list(ws.shape)} for {count} layers and {len(affines)} affine maps"
        )
    width = ws.shape[2]
    for weight, (matrix, bias) in zip(layers, affines):
        rank, rest = divmod(bias.numel(), sum(weight.shape)) if weight.ndim == 2 else (0, 0)
        if rank < 1 or rest or tuple(matrix.shape) != (bias.shape[0], width) or bias.ndim != 1:
            raise ValueError(
                f"inr_weights: an affine map {list(matrix.shape)}, {list(bias.shape)} of w "
                f"[{width}] does not produce the factors of a weight {list(weight.shape)}"
            )
    channels = layers[-1].shape[0]
    shapes = [tuple(tensor.shape) for tensor in (rgb, *rgb_affine)]
    if rgb.ndim != 2 or shapes[1:] != [(channels, width), (channels,)] or rgb.shape[1] != channels:
        raise ValueError(
            f"inr_weights: to-RGB of {channels} channels and w [{width}] needs [C, {channels}], "
            f"[{channels}, {width}] and [{channels}], got {', '.join(str(list(s)) for s in shapes)}"
        )
    if predict is not None:
        matrix, bias = predict
        if tuple(matrix.shape) != (bias.numel(), width) or bias.ndim != 1:
            raise ValueError(
                f"inr_weights: what is predicted from w [{width}] needs [R, {width}] and [R], got "
                f"{list(matrix.shape)} and {list(bias.shape)}"
            )
