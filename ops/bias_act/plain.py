"""`bias_act` in plain PyTorch with few passes over memory (portable: runs from a snapshot)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class ActivationSpec:
    """An activation function and its defaults (StyleGAN2-ADA's table).

    Attributes:
        func: `func(x, alpha=alpha)`; functions without a shape parameter ignore alpha.
        def_alpha: Default shape parameter.
        def_gain: Default gain: keeps the second moment of a unit normal input near one.
        cuda_idx: Number of the function in kernels.
        ref: What a kernel's backward needs: "" nothing, "x" the input, "y" the output.
        has_2nd_grad: Whether the second derivative is non-zero somewhere.
    """

    func: Callable[..., torch.Tensor]
    def_alpha: float
    def_gain: float
    cuda_idx: int
    ref: str
    has_2nd_grad: bool


def _act_linear(x: torch.Tensor, alpha: float = 0) -> torch.Tensor:
    return x


def _act_relu(x: torch.Tensor, alpha: float = 0) -> torch.Tensor:
    return F.relu(x)


def _act_lrelu(x: torch.Tensor, alpha: float = 0.2) -> torch.Tensor:
    return F.leaky_relu(x, alpha)


def _act_tanh(x: torch.Tensor, alpha: float = 0) -> torch.Tensor:
    return torch.tanh(x)


def _act_sigmoid(x: torch.Tensor, alpha: float = 0) -> torch.Tensor:
    return torch.sigmoid(x)


def _act_elu(x: torch.Tensor, alpha: float = 0) -> torch.Tensor:
    return F.elu(x)


def _act_selu(x: torch.Tensor, alpha: float = 0) -> torch.Tensor:
    return F.selu(x)


def _act_softplus(x: torch.Tensor, alpha: float = 0) -> torch.Tensor:
    return F.softplus(x)


def _act_swish(x: torch.Tensor, alpha: float = 0) -> torch.Tensor:
    return torch.sigmoid(x) * x


activation_funcs = {
    "linear": ActivationSpec(_act_linear, 0, 1, 1, "", False),
    "relu": ActivationSpec(_act_relu, 0, math.sqrt(2), 2, "y", False),
    "lrelu": ActivationSpec(_act_lrelu, 0.2, math.sqrt(2), 3, "y", False),
    "tanh": ActivationSpec(_act_tanh, 0, 1, 4, "y", True),
    "sigmoid": ActivationSpec(_act_sigmoid, 0, 1, 5, "y", True),
    "elu": ActivationSpec(_act_elu, 0, 1, 6, "y", True),
    "selu": ActivationSpec(_act_selu, 0, 1, 7, "y", True),
    "softplus": ActivationSpec(_act_softplus, 0, 1, 8, "y", True),
    "swish": ActivationSpec(_act_swish, 0, math.sqrt(2), 9, "x", True),
}


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """clamp(gain * act(x + b), -clamp, clamp); see `ops.bias_act.bias_act`. `impl` is ignored."""
    spec = activation_funcs[act]
    alpha = float(spec.def_alpha if alpha is None else alpha)
    gain = float(spec.def_gain if gain is None else gain)
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        b = b.reshape(shape)
    # gain * act(x) = act(gain * x) for these: the gain comes with the addition, and the activation
    # overwrites a tensor that nobody else holds.
    homogeneous = act == "linear" or (act in ("relu", "lrelu") and gain > 0 and alpha >= 0)
    if homogeneous and (b is not None or gain != 1):
        x = x * gain if b is None else torch.add(b * gain if gain != 1 else b, x, alpha=gain)
        if act != "linear":
            x = F.leaky_relu_(x, alpha) if act == "lrelu" else F.relu_(x)
    else:
        x = spec.func(x if b is None else x + b, alpha=alpha)
        if gain != 1:
            x = x * gain
    # hardtanh is clamp with a backward of one pass instead of four.
    return x if clamp is None else F.hardtanh(x, -float(clamp), float(clamp))
