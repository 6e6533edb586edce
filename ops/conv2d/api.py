"""Public face of the op `conv2d`: PyTorch's convolutions with switchable weight gradients.

Larger 3x3 convolutions of float32 on the CPU run `winograd.py` where a compiler is found.
"""

from __future__ import annotations

import torch

from ops.conv2d import gradfix, reference, winograd
from ops.conv2d.autograd import Convolution


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """y[n, o] = b[o] + sum_i correlate(x[n, i], w[o, i]), as `torch.nn.functional.conv2d`.

    Inside `no_weight_gradients`, backward passes leave the gradient of the weight None, if the
    forward pass ran there too or while `gradfix.enabled` was set.

    Args:
        input: [N, C, H, W], floating point.
        weight: [O, C / groups, kh, kw], dtype of `input`.
        bias: [O] or None.
        stride: Step between outputs, int or (y, x).
        padding: Zeros around the input, int or (y, x), "valid" or "same".
        dilation: Distance between taps, int or (y, x).
        groups: Number of groups that the channels are split into.

    Returns:
        [N, O, H', W'], dtype of `input`.

    Orders of gradient: 1st, 2nd and higher composed of convolutions.
    """
    own = not isinstance(padding, str) and (
        _switchable(input, weight) or _faster(input, weight, stride, padding, dilation, groups)
    )
    if not own:
        return reference.conv2d(input, weight, bias, stride, padding, dilation, groups)
    args = _pair(stride), _pair(padding), _pair(dilation), False, [0, 0], groups
    return Convolution.apply(input, weight, bias, *args)


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
) -> torch.Tensor:
    """The transpose of `conv2d` in its input, as `torch.nn.functional.conv_transpose2d`.

    Args:
        input: [N, C, H, W], floating point.
        weight: [C, O / groups, kh, kw], dtype of `input`.
        bias: [O] or None.
        stride: Step between inputs on the output, int or (y, x).
        padding: Rows and columns cut off the output, int or (y, x).
        output_padding: Rows and columns added at its end, int or (y, x), smaller than `stride`.
        groups: Number of groups that the channels are split into.
        dilation: Distance between taps, int or (y, x).

    Returns:
        [N, O, H', W'], dtype of `input`.

    Orders of gradient: as for `conv2d`.
    """
    if not _switchable(input, weight):
        return reference.conv_transpose2d(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    args = _pair(stride), _pair(padding), _pair(dilation), True, _pair(output_padding), groups
    return Convolution.apply(input, weight, bias, *args)


def _switchable(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a backward pass may have to leave out this weight's gradient."""
    return (
        (gradfix.enabled or gradfix.weight_gradients_disabled)
        and torch.is_grad_enabled()
        and weight.requires_grad
        and x.ndim == 4
        and not torch.is_autocast_enabled(x.device.type)
    )


def _faster(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    groups: int,
) -> bool:
    """Whether the compiled algorithm for 3x3 kernels on the CPU takes this call."""
    return (
        x.device.type == "cpu"
        and x.ndim == weight.ndim == 4
        and x.shape[1] == weight.shape[1]
        and not torch.is_autocast_enabled(x.device.type)
        and winograd.suits(x, weight, _pair(stride), _pair(padding), _pair(dilation), groups)
    )


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
