"""Shapes and options of the ops, shared by tests and benchmarks.

A case marked `small` is sized for tests (odd, prime and single sizes, fit for gradcheck); the
others are layers of a StyleGAN2 discriminator and of its augmentation at 32x32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ops.affine import affine
from ops.affine.reference import affine as ref_affine
from ops.bias_act import activation_funcs, bias_act
from ops.bias_act.reference import bias_act as ref_bias_act
from ops.conv2d import conv2d, conv_transpose2d
from ops.conv2d.reference import conv2d as ref_conv2d
from ops.conv2d.reference import conv_transpose2d as ref_conv_transpose2d
from ops.conv2d_resample import conv2d_resample
from ops.conv2d_resample.reference import conv2d_resample as ref_conv2d_resample
from ops.conv_layer import conv_layer
from ops.conv_layer.reference import conv_layer as ref_conv_layer
from ops.fma import fma
from ops.fma.reference import fma as ref_fma
from ops.fmm import FMM_ACTIVATIONS, fmm
from ops.fmm.reference import fmm as ref_fmm
from ops.grid_sample import grid_sample
from ops.grid_sample.reference import grid_sample as ref_grid_sample
from ops.mapping_layers import mapping_layers
from ops.mapping_layers.reference import mapping_layers as ref_mapping_layers
from ops.registry_inr import INR_FUNCTIONS, inr_calls
from ops.upfirdn2d import setup_filter, upfirdn2d
from ops.upfirdn2d.reference import upfirdn2d as ref_upfirdn2d


def _mapping(
    function: Callable[..., torch.Tensor],
    z: torch.Tensor | None = None,
    c: torch.Tensor | None = None,
    **arguments,
) -> torch.Tensor:
    embed = None
    if c is not None:
        embed = arguments.pop("embed"), arguments.pop("embed_bias")
    count = sum(name.startswith("weight") for name in arguments)
    layers = [(arguments.pop(f"weight{k}"), arguments.pop(f"bias{k}")) for k in range(count)]
    return function(z, c, embed, layers, **arguments)


FUNCTIONS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "affine": (affine, ref_affine),
    "bias_act": (bias_act, ref_bias_act),
    "conv2d": (conv2d, ref_conv2d),
    "conv_transpose2d": (conv_transpose2d, ref_conv_transpose2d),
    "conv2d_resample": (conv2d_resample, ref_conv2d_resample),
    "conv_layer": (conv_layer, ref_conv_layer),
    "fma": (fma, ref_fma),
    "fmm": (fmm, ref_fmm),
    "grid_sample": (grid_sample, ref_grid_sample),
    "mapping_layers": (
        functools.partial(_mapping, mapping_layers),
        functools.partial(_mapping, ref_mapping_layers),
    ),
    "upfirdn2d": (upfirdn2d, ref_upfirdn2d),
    **INR_FUNCTIONS,
}
"""(public function, definition) by name."""

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Precisions that every op supports."""

BLUR = (1.0, 3.0, 3.0, 1.0)
SKEWED = (1.0, 2.0, 4.0)
LONG = (1.0, -2.0, 3.0, 5.0, 8.0, 6.0, 4.0, -3.0, 2.0)


@dataclass(frozen=True)
class OpCase:
    """One call of one op.

    Attributes:
        op: Key of `FUNCTIONS`.
        name: Readable id, unique per op.
        shapes: Argument name -> shape of each tensor; normal random values.
        options: Further keyword arguments.
        taps: Filter, handed to `setup_filter` and passed as `f`; None = no such argument.
        constant: Names of `shapes` that get no gradient.
        small: For tests; otherwise a size for benchmarks.
    """

    op: str
    name: str
    shapes: dict[str, tuple[int, ...]]
    options: dict = field(default_factory=dict)
    taps: tuple[float, ...] | None = None
    constant: tuple[str, ...] = ()
    small: bool = True

    def inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> dict[str, torch.Tensor]:
        """Random tensors by argument name, the same numbers for every dtype and device."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
            for name, shape in self.shapes.items()
        }

    def bind(self, reference: bool = False, device: torch.device | str = "cpu") -> Callable:
        """The public function (or its definition) as a function of the tensors by keyword."""
        options = dict(self.options)
        if self.taps is not None:
            options["f"] = setup_filter(self.taps, device=device)
        return functools.partial(FUNCTIONS[self.op][1 if reference else 0], **options)

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"


def _bias_act_cases() -> list[OpCase]:
    x = {"x": (2, 3, 5, 4), "b": (3,)}
    cases = [OpCase("bias_act", act, x, {"act": act}) for act in activation_funcs]
    cases += [
        OpCase("bias_act", f"{a}-clamp", x, {"act": a, "clamp": 0.7}) for a in activation_funcs
    ]
    cases += [
        OpCase("bias_act", "no-bias", {"x": (7, 11)}, {"act": "lrelu", "alpha": 0.1, "gain": 1}),
        OpCase("bias_act", "identity", {"x": (1, 1)}),
        OpCase("bias_act", "last-dim", {"x": (3, 1, 5), "b": (5,)}, {"act": "relu", "dim": 2}),
        OpCase("bias_act", "gain-zero", x, {"act": "lrelu", "gain": 0}),
        OpCase("bias_act", "gain-negative", x, {"act": "lrelu", "gain": -1.5}),
        OpCase("bias_act", "alpha-negative", x, {"act": "lrelu", "alpha": -0.3}),
    ]
    for channels, size in ((64, 32), (64, 16), (128, 8)):
        shapes = {"x": (32, channels, size, size), "b": (channels,)}
        options = {"act": "lrelu", "clamp": 256}
        cases.append(OpCase("bias_act", f"d{size}", shapes, options, small=False))
    return cases


def _upfirdn2d_cases() -> list[OpCase]:
    def case(name, shape, taps, small=True, **options):
        return OpCase("upfirdn2d", name, {"x": shape}, options, taps, small=small)

    return [
        case("single-pixel", (1, 1, 1, 1), BLUR, up=2, padding=[2, 1], gain=4),
        case("impulse", (1, 2, 3, 4), (2.0,), padding=[1, 0, 0, 1]),
        case("blur", (2, 3, 7, 5), BLUR, padding=2),
        case("up", (2, 3, 5, 4), BLUR, up=2, padding=[2, 1, 2, 1], gain=4),
        case("down", (1, 2, 9, 8), BLUR, down=2, padding=1),
        case("mixed", (1, 2, 5, 6), SKEWED, up=[3, 1], down=[2, 3], padding=[4, -1, 0, 2]),
        case("crop", (1, 2, 7, 8), SKEWED, padding=[-2, -1, 0, -2], flip_filter=True),
        case("crop-up", (1, 1, 6, 7), SKEWED, up=2, padding=[-3, 1, 2, -5]),
        case("depthwise", (1, 17, 9, 8), SKEWED, padding=[1, 2, 0, 1], flip_filter=True),
        case("depthwise-down", (1, 17, 9, 11), SKEWED, down=[2, 3], padding=1),
        case("separable-up", (1, 2, 9, 7), LONG, up=2, padding=[5, 4, 4, 4], gain=4),
        case("separable-down", (1, 2, 23, 19), LONG, down=2, padding=[0, 1, -2, 3]),
        case("d-blur32", (32, 64, 32, 32), BLUR, False, padding=2),
        case("d-down32", (32, 64, 32, 32), BLUR, False, down=2, padding=1),
        case("d-blur8", (32, 128, 8, 8), BLUR, False, padding=2),
        case("d-down8", (32, 128, 8, 8), BLUR, False, down=2, padding=1),
        case("g-up16", (32, 64, 16, 16), BLUR, False, up=2, padding=[2, 1, 2, 1], gain=4),
        case("augment-up", (32, 3, 40, 40), LONG, False, up=2, padding=[5, 4, 5, 4], gain=4),
        case("augment-down", (32, 3, 76, 76), LONG, False, down=2, padding=-1),
    ]


def _conv_cases() -> list[OpCase]:
    def conv(name, x, w, op="conv2d", b=None, **options):
        shapes = {"input": x, "weight": w} | ({} if b is None else {"bias": b})
        return OpCase(op, name, shapes, options)

    def resample(name, x, w, taps=BLUR, small=True, **options):
        return OpCase("conv2d_resample", name, {"x": x, "w": w}, options, taps, small=small)

    x, w, t = (2, 4, 5, 7), (6, 4, 3, 3), "conv_transpose2d"
    return [
        conv("plain", x, w, b=(6,), padding=1),
        conv("stride", x, (6, 2, 3, 2), stride=(2, 3), groups=2),
        conv("dilation", x, w, padding=(2, 0), dilation=(2, 1)),
        conv("plain", x, (4, 3, 3, 3), op=t, b=(3,), padding=1),
        conv("stride", x, (4, 2, 3, 3), op=t, stride=2, output_padding=(1, 0), groups=2),
        resample("plain", x, w, padding=1),
        resample("up", x, w, up=2, padding=1, flip_weight=False),
        resample("down", (1, 4, 6, 8), w, down=2, padding=1),
        resample("up-1x1", x, (3, 4, 1, 1), up=2),
        resample("down-1x1", x, (3, 4, 1, 1), down=2, flip_filter=True),
        resample("up-down", x, (3, 4, 3, 2), SKEWED, up=3, down=2, padding=[1, 0, -1, 2]),
        resample("groups-up", x, (6, 2, 3, 3), SKEWED, up=2, padding=1, groups=2),
        resample("groups-down", x, (6, 2, 2, 3), SKEWED, down=3, padding=[1, 2], groups=2),
        resample("d32", (32, 32, 32, 32), (64, 32, 3, 3), small=False, down=2, padding=1),
        resample("d32-skip", (32, 32, 32, 32), (64, 32, 1, 1), small=False, down=2),
        resample("g16", (32, 64, 16, 16), (32, 64, 3, 3), small=False, up=2, padding=1),
    ]


def _conv_layer_cases() -> list[OpCase]:
    def case(name, x, w, bias=True, small=True, **options):
        shapes = {"x": x, "w": w} | ({"b": w[:1]} if bias else {})
        options = {"act": "lrelu", "padding": w[2] // 2, "weight_gain": 0.3} | options
        return OpCase("conv_layer", name, shapes, options, BLUR, small=small)

    return [
        case("plain", (2, 4, 5, 7), (6, 4, 3, 3)),
        case("panels", (1, 9, 5, 4), (26, 9, 3, 3)),
        case("images", (7, 17, 4, 4), (16, 17, 3, 3)),
        case("tiles", (2, 3, 17, 13), (9, 3, 3, 3), clamp=1),
        case("padded", (3, 8, 6, 7), (16, 8, 3, 3), padding=[2, 0, 1, 2], act="linear"),
        case("down", (2, 3, 6, 8), (10, 3, 3, 3), down=2, gain=0.5),
        case("down-odd", (3, 2, 7, 5), (3, 2, 3, 3), down=2, alpha=0.5, clamp=1),
        case("down-1x1", (2, 5, 6, 8), (9, 5, 1, 1), bias=False, act="linear", down=2),
        case("down-wide", (1, 2, 10, 7), (3, 2, 5, 5), down=3, padding=[3, 2, 1, 4]),
        case("from-rgb", (2, 1, 4, 3), (17, 1, 1, 1), act="relu", clamp=1),
        case("single", (1, 1, 1, 1), (1, 1, 1, 1), bias=False, weight_gain=1),
        case("smooth", (1, 2, 4, 3), (3, 2, 3, 3), act="swish"),
        case("up", (1, 2, 3, 4), (3, 2, 3, 3), up=2, flip_weight=False),
        case("d32", (32, 16, 32, 32), (16, 16, 3, 3), small=False),
        case("d32-down", (32, 16, 32, 32), (32, 16, 3, 3), small=False, down=2),
        case("d32-skip", (32, 16, 32, 32), (32, 16, 1, 1), False, False, act="linear", down=2),
        case("d8", (32, 64, 8, 8), (64, 64, 3, 3), small=False),
    ]


def _fmm_cases() -> list[OpCase]:
    def case(name, n, out, inp, rank, activation="demod", small=True):
        shapes = {"weight": (out, inp), "a": (n, out, rank), "b": (n, rank, inp)}
        return OpCase("fmm", name, shapes, {"activation": activation}, small=small)

    return [
        *(case(activation, 2, 5, 7, 3, activation) for activation in FMM_ACTIVATIONS),
        case("single", 1, 1, 1, 1, "none"),
        case("tiles", 2, 17, 33, 10),
        case("g512", 8, 512, 512, 10, small=False),
        case("g128", 32, 128, 256, 10, small=False),
    ]


def mapping_case(
    name: str,
    n: int,
    z: int,
    c: int,
    embed: int,
    widths: Sequence[int],
    act: str = "lrelu",
    small: bool = True,
) -> OpCase:
    """A call of `mapping_layers` for latents of size z, labels of size c (0 = none)."""
    shapes: dict[str, tuple[int, ...]] = {"z": (n, z)} if z else {}
    if c:
        shapes |= {"c": (n, c), "embed": (embed, c), "embed_bias": (embed,)}
    inputs = z + (embed if c else 0)
    for index, width in enumerate(widths):
        shapes |= {f"weight{index}": (width, inputs), f"bias{index}": (width,)}
        inputs = width
    options = {"act": act, "lr_multiplier": 0.5}
    return OpCase("mapping_layers", name, shapes, options, constant=("c",), small=small)


def _mapping_cases() -> list[OpCase]:
    return [
        mapping_case("latents", 3, 5, 0, 0, [7, 6]),
        mapping_case("labels", 2, 0, 3, 4, [5]),
        mapping_case("both", 5, 9, 2, 8, [6, 3, 2]),
        mapping_case("embedding", 2, 0, 4, 9, []),
        mapping_case("single", 1, 8, 0, 0, [1], "linear"),
        mapping_case("tiny", 32, 128, 10, 128, [128], small=False),
        mapping_case("stylegan2", 8, 512, 0, 0, [512] * 8, small=False),
    ]


CASES: list[OpCase] = [
    *_bias_act_cases(),
    *_upfirdn2d_cases(),
    *_conv_cases(),
    *_conv_layer_cases(),
    *_fmm_cases(),
    *_mapping_cases(),
    *(OpCase(*call[:4], small=call[4]) for call in inr_calls()),
    OpCase("affine", "gain", {"x": (3, 5), "weight": (7, 5), "bias": (7,)}, {"gain": 0.3}),
    OpCase("affine", "no-bias", {"x": (1, 1), "weight": (2, 1)}),
    OpCase("affine", "large", {"x": (2, 512), "weight": (2049, 512), "bias": (2049,)}, small=False),
    OpCase("fma", "equal", {"a": (2, 3), "b": (2, 3), "c": (2, 3)}),
    OpCase("fma", "modulation", {"a": (2, 3, 5, 4), "b": (2, 3, 1, 1), "c": (2, 1, 5, 4)}),
    OpCase("fma", "small-c", {"a": (1,), "b": (3, 1), "c": ()}),
    OpCase("grid_sample", "odd", {"input": (2, 3, 5, 7), "grid": (2, 4, 3, 2)}, constant=("grid",)),
    OpCase(
        "grid_sample", "pixel", {"input": (1, 1, 1, 1), "grid": (1, 1, 1, 2)}, constant=("grid",)
    ),
]
"""All calls; filter by `op` and `small`."""
