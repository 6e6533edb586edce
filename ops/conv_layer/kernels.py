"""The kernels of `conv_layer` as functions of tensors: which calls they take, sizes, results.

They are declared in `conv_layer.h`; nothing here is differentiable, see `autograd.py` for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops import _dispatch
from ops.bias_act import activation_funcs
from ops.bias_act.kernels import PIECEWISE_LINEAR, slope_from_result
from ops.upfirdn2d.kernels import separated
from ops.upfirdn2d.plain import fir_downsample_padding, fir_padding

ALGORITHMS = {"size": 0, "direct": 1, "winograd": 2}
"""How products are made, see `ConvLayerAlgorithm`; "size" chooses."""

algorithm = "size"
"""What runs; tests change it."""

MAX_IMAGE = 2**19
"""Numbers of an image, before or after the convolution, up to which a thread takes a whole one."""

MAX_WEIGHT = 2**16
"""Numbers of a weight up to which this beats matrix products over the whole batch."""

MAX_RGB_IMAGE = 2**22
"""The same as MAX_IMAGE for layers that read an image, which are bound by memory."""

MAX_RGB_CHANNELS = 4


class ConvLayerOptions(NamedTuple):
    """What is not a tensor that gets a gradient; see the fields of `ConvLayerParams`.

    Attributes:
        taps: Result of `ops.upfirdn2d.kernels.separated`, or None.
        padding: Zeros above and left of the image.
        middle: (height, width) of what the convolution reads.
        step: Distance between filtered pixels that are kept.
        stride: Of the convolution.
        weight_gain, slope, gain: Factors of the weight, of z below 0, and after the activation.
        clamp: Largest absolute value; negative = no limit.
    """

    taps: tuple[Tensor, tuple[int, int]] | None
    padding: tuple[int, int]
    middle: tuple[int, int]
    step: int
    stride: int
    weight_gain: float
    slope: float
    gain: float
    clamp: float


def options_of(
    x: Tensor,  # [N, I, H, W]
    w: Tensor,  # [O, I, k, k]
    f: Tensor | None = None,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    weight_gain: float = 1,
) -> ConvLayerOptions | None:
    """The kernel's description of a layer that does not upsample; None where it takes no such.

    Args: as of `ops.conv_layer.conv_layer`.
    """
    if act not in PIECEWISE_LINEAR or w.shape[2] != w.shape[3] or (clamp is not None and clamp < 0):
        return None
    spec = activation_funcs[act]
    slope = {"linear": 1.0, "relu": 0.0, "lrelu": spec.def_alpha if alpha is None else alpha}[act]
    gain = float(spec.def_gain if gain is None else gain)
    if not slope_from_result(act, slope, gain):
        return None
    kernel, taps, step, stride = w.shape[2], None, 1, down
    if down > 1 and f is not None:
        taps = separated(f)
        if taps is None:
            return None
        if kernel == 1:
            step, stride = down, 1
    x0, x1, y0, y1 = fir_downsample_padding(f, down, padding) if down > 1 else fir_padding(padding)
    fh, fw = (1, 1) if taps is None else taps[1]
    height, width = x.shape[2] + y0 + y1 - fh, x.shape[3] + x0 + x1 - fw
    middle = height // step + 1, width // step + 1
    if min(x0, x1, y0, y1, height, width) < 0 or min(middle) < kernel:
        return None
    limit = -1.0 if clamp is None else float(clamp)
    factors = float(weight_gain), float(slope), gain, limit
    return ConvLayerOptions(taps, (y0, x0), middle, step, stride, *factors)


def pays(x: Tensor, w: Tensor, options: ConvLayerOptions) -> bool:
    """Whether a layer is small enough, and the batch large enough for all threads."""
    outputs, inputs, kernel, _ = w.shape
    height, width = options.middle
    largest = height * width * max(inputs, outputs // options.stride**2)
    reads_rgb = kernel == 1 and inputs <= MAX_RGB_CHANNELS
    fits = largest <= (MAX_RGB_IMAGE if reads_rgb else MAX_IMAGE) and w.numel() <= MAX_WEIGHT
    return fits and 2 * x.shape[0] >= torch.get_num_threads()


def forward(x: Tensor, w: Tensor, b: Tensor | None, options: ConvLayerOptions) -> Tensor:
    """y [N, O, H', W'] of a layer.

    Args:
        x: [N, I, H, W] float32.
        w: [O, I, k, k] float32.
        b: [O] float32 or None.
        options: Result of `options_of`.
    """
    kernel, stride = w.shape[2], options.stride
    height, width = [(side - kernel) // stride + 1 for side in options.middle]
    y = x.new_empty([x.shape[0], w.shape[0], height, width])
    _call(
        "conv_layer_forward",
        x,
        w,
        options,
        y.shape,
        bias=None if b is None else b.contiguous(),
        y=y,
    )
    return y


def backward(
    grad: Tensor,
    y: Tensor,
    x: Tensor,
    w: Tensor,
    options: ConvLayerOptions,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, w and the bias, None where they are not wanted.

    Args:
        grad: Gradient of y.
        y: Result of `forward`.
        x, w, options: As for `forward`.
        wanted: Which of the three are.
    """
    shapes = x.shape, w.shape, w.shape[:1]
    found = [x.new_empty(shape) if want else None for shape, want in zip(shapes, wanted)]
    _call(
        "conv_layer_backward",
        x,
        w,
        options,
        y.shape,
        result=y,
        grad_y=grad.contiguous(),
        grad_x=found[0],
        grad_weight=found[1],
        grad_bias=found[2],
    )
    return found


def _call(
    function: str, x: Tensor, w: Tensor, options: ConvLayerOptions, size: torch.Size, **tensors: Any
) -> None:
    taps, (fir_h, fir_w) = options.taps or (None, (0, 0))
    x, w = x.contiguous(), w.contiguous()
    n, ci, height, width = x.shape
    _dispatch.kernel_module("conv_layer", "cpp").call(
        function,
        x=x,
        weight=w,
        taps=taps,
        **tensors,
        n=n,
        ci=ci,
        h=height,
        w=width,
        co=w.shape[0],
        out_h=size[2],
        out_w=size[3],
        mid_h=options.middle[0],
        mid_w=options.middle[1],
        pad_y=options.padding[0],
        pad_x=options.padding[1],
        fir_h=fir_h,
        fir_w=fir_w,
        fir_step=options.step,
        kernel=w.shape[2],
        stride=options.stride,
        algorithm=ALGORITHMS[algorithm],
        threads=torch.get_num_threads(),
        weight_gain=options.weight_gain,
        slope=options.slope,
        gain=options.gain,
        clamp=options.clamp,
    )
