"""Times of single ops beside the machine's own ceilings: device copy, matrix products.

Everything that is compared is measured in one process, in turns; numbers are medians. A ceiling is
measured before anything is said to reach a share of it. `generator_bench` has whole networks,
`gpu_check` the command that runs all of it. Needs torch and numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from analysis.op_check import PRECISIONS, recorded_choices
from analysis.timing import Function, Timing, first_line, interleaved
from ops.fmm import fmm
from ops.fmm.reference import fmm as fmm_definition
from ops.inr_layer import CoordFeatures, inr_layer
from ops.registry_inr import doubling_taps

CLAMP = 256.0
RANK = 10
NO_KERNEL = "no kernel ran"


@dataclass(frozen=True)
class LayerShape:
    """One 1x1 layer: channels to channels at size x size; coords: channels of coordinates."""

    channels: int
    size: int
    batch: int
    coords: int = 0

    def __str__(self) -> str:
        return f"{self.channels}->{self.channels} at {self.size}x{self.size}, batch {self.batch}"


@dataclass(frozen=True)
class Scale:
    """How large everything is that is measured.

    Attributes:
        precision: A name of `op_check.PRECISIONS`.
        copy_bytes: Size of the tensor that is copied.
        matrix: Side of the square matrices that are multiplied.
        fmm: (N, O, I) of weights that are composed.
        layers: Layers.
        samples, sample_seconds: As `timing.interleaved`.
        compile_backend: Of torch.compile; None = the layer is not compiled.
        resolution, batches: Of whole generators.
        memory_batch: Batch whose peak memory is measured.
        width: Channels of generators are at most this; None = the preset's.
        train_batch: Images of a training step; 0 = no training.
    """

    precision: str
    copy_bytes: int
    matrix: int
    fmm: tuple[tuple[int, int, int], ...]
    layers: tuple[LayerShape, ...]
    samples: int = 7
    sample_seconds: float = 0.02
    compile_backend: str | None = "inductor"
    resolution: int = 256
    batches: tuple[int, ...] = (1, 8, 32)
    memory_batch: int = 50
    width: int | None = None
    train_batch: int = 16


GPU = Scale(
    precision="fp16",
    copy_bytes=2**30,
    matrix=8192,
    fmm=((256, 512, 512), (1024, 256, 256), (4096, 128, 128), (32, 512, 688)),
    layers=(
        LayerShape(512, 64, 32, 176),
        LayerShape(256, 128, 32, 156),
        LayerShape(128, 256, 32, 160),
    ),
)
CPU = Scale(
    precision="fp32",
    copy_bytes=2**28,
    matrix=2048,
    fmm=((2, 512, 512), (2, 128, 128)),
    layers=(
        LayerShape(512, 64, 2, 176),
        LayerShape(256, 128, 2, 156),
        LayerShape(128, 256, 2, 160),
    ),
    samples=5,
    sample_seconds=0.2,
    batches=(2,),
    memory_batch=4,
    train_batch=0,
)


@dataclass
class Row:
    """One measured number.

    Attributes:
        section: "ceilings", "fmm", "inr_layer", "generator", "memory" or "training".
        case: What was computed.
        variant: Which way: "kernel", "torch.bmm", ...
        seconds: Median time of a call; None where something else was measured, or nothing.
        timing: The rest of what was measured of the time.
        flops, bytes: Work that has to be done, and what has to be moved at least, in a call.
        images: Images that a call makes.
        memory: Bytes needed at most.
        note: What went wrong, or else needs to be said.
    """

    section: str
    case: str
    variant: str
    seconds: float | None = None
    timing: Timing | None = None
    flops: float = 0.0
    bytes: float = 0.0
    images: int = 0
    memory: int | None = None
    note: str = ""


@dataclass
class Bench:
    """Where and how large to measure, and what was measured so far.

    Attributes:
        device: Where.
        scale: How large.
        out_of_time: Asked before every comparison; what is left out is said in `notes`.
        rows: Results.
        notes: What was left out, or failed.
    """

    device: torch.device
    scale: Scale
    out_of_time: Callable[[], bool] = lambda: False
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which ops are measured."""
        return PRECISIONS[self.scale.precision]

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal random numbers on the device."""
        return torch.randn(shape, device=self.device).to(dtype or self.dtype)

    def compare(
        self,
        section: str,
        case: str,
        functions: dict[str, Function],
        *,
        graphs: bool = True,
        flops: float = 0.0,
        bytes_: float = 0.0,
    ) -> None:
        """Times functions that compute the same, and adds their rows.

        Args:
            section, case, flops: As `Row`.
            functions: Variant -> function. One that raises gets a row without a time.
            graphs: Whether launches are captured where possible.
            bytes_: `Row.bytes`.
        """
        if self.out_of_time():
            self.notes.append(f"{section}: {case}: left out, the time is up")
            return
        working, failed, notes = {}, {}, {}
        for variant, function in functions.items():
            try:
                notes[variant] = which_ran(variant, function)
                working[variant] = function
            except Exception as error:  # one variant must not cost the others their numbers
                failed[variant] = first_line(error)
        times = interleaved(
            working,
            self.device,
            samples=self.scale.samples,
            sample_seconds=self.scale.sample_seconds,
            graphs=graphs and self.device.type == "cuda",
        )
        for variant in functions:
            row = Row(section, case, variant, flops=flops, bytes=bytes_)
            if variant in times:
                row.timing, row.seconds = times[variant], times[variant].median
                row.note = "; ".join(filter(None, [notes[variant], times[variant].note]))
            else:
                row.note = failed[variant]
            self.rows.append(row)


def which_ran(variant: str, function: Function) -> str:
    """Calls a function, and says so if its variant promises kernels and none ran."""
    seen: set[str] = set()
    with recorded_choices(seen):
        function()
    return NO_KERNEL if variant.startswith("kernel") and not seen else ""


def measure_ceilings(bench: Bench) -> None:
    """What the machine does at best: bytes per second of a copy, products of large matrices."""
    x = torch.ones(bench.scale.copy_bytes, dtype=torch.uint8, device=bench.device)
    y = torch.empty_like(x)
    copies = {"copy": lambda: y.copy_(x)}
    bench.compare("ceilings", "device copy", copies, bytes_=2 * x.numel())
    n = bench.scale.matrix
    for name in dict.fromkeys(["fp32", bench.scale.precision]):
        a, b = (bench.random(n, n, dtype=PRECISIONS[name]) for _ in range(2))
        products = {name: lambda a=a, b=b: torch.mm(a, b)}
        bench.compare("ceilings", "matrix product", products, flops=2 * n**3)


def ceilings(rows: list[Row]) -> tuple[float | None, dict[str, float]]:
    """(bytes per second, operations per second by precision), as far as they were measured."""
    bandwidth, rates = None, {}
    for row in rows:
        if row.section == "ceilings" and row.seconds:
            if row.bytes:
                bandwidth = row.bytes / row.seconds
            else:
                rates[row.variant] = row.flops / row.seconds
    return bandwidth, rates


def measure_fmm(bench: Bench) -> None:
    """Composition of weights and its gradient, counted in the bytes that have to move."""
    for n, out, inp in bench.scale.fmm:
        weight, a, b = (
            bench.random(out, inp),
            bench.random(n, out, RANK),
            bench.random(n, RANK, inp),
        )
        size = weight.element_size()
        inputs = size * (out * inp + n * RANK * (out + inp))
        case = f"{n} x {out} x {inp}, rank {RANK}"
        with torch.no_grad():
            functions: dict[str, Function] = {
                "kernel": lambda w=weight, a=a, b=b: fmm(w, a, b),
                "definition": lambda w=weight, a=a, b=b: fmm_definition(w, a, b),
            }
            bytes_ = inputs + size * n * out * inp
            bench.compare("fmm", f"{case}, forward", functions, bytes_=bytes_)
        leaves = [tensor.requires_grad_() for tensor in (weight, a, b)]
        v = bench.random(n, out, inp)
        functions = {
            name: lambda f=f, leaves=leaves, v=v: torch.autograd.grad(f(*leaves), leaves, v)
            for name, f in (("kernel", fmm), ("definition", fmm_definition))
        }
        # Forward: read and write; backward: read v and the inputs, write their gradients.
        bytes_ = 3 * inputs + 2 * size * n * out * inp
        bench.compare("fmm", f"{case}, forward and backward", functions, bytes_=bytes_)


def plain_layer(
    weight: Tensor, x: Tensor, bias: Tensor, coords: Tensor | None = None, mode: str | None = None
) -> Tensor:
    """A layer as anybody would write it, for torch.compile.

    Args:
        weight: [N, O, I + E].
        x: [N, I, H, W], or half as large if there is a `mode`.
        bias: [O].
        coords: [1, E, H, W], or None.
        mode: How x is up-sampled, "nearest" or "bilinear"; None = not at all.
    """
    if mode is not None:
        x = F.interpolate(x, scale_factor=2, mode=mode)
    if coords is not None:
        x = torch.cat([x, coords.expand(x.shape[0], -1, -1, -1)], 1)
    y = torch.bmm(weight, x.flatten(2)) + bias[:, None]
    y = F.leaky_relu(y, 0.2) * math.sqrt(2)
    return y.clamp(-CLAMP, CLAMP).unflatten(2, x.shape[2:])


def compiled(function: Callable[..., Tensor], backend: str | None) -> Callable[..., Tensor] | None:
    """The function under torch.compile, for fixed shapes; None without a backend."""
    if backend is None:
        return None
    torch.compiler.reset()
    return torch.compile(function, backend=backend, dynamic=False, fullgraph=True)


def measure_layers(bench: Bench) -> None:
    """Layers beside the bare matrix product of the same shape, and beside torch.compile."""
    for shape in bench.scale.layers:
        with torch.no_grad():
            _measure_hidden_layer(bench, shape)
            if shape.coords:
                _measure_first_layer(bench, shape)
        _measure_layer_gradient(bench, shape)


def _measure_hidden_layer(bench: Bench, shape: LayerShape) -> None:
    n, c, s = shape.batch, shape.channels, shape.size
    weight, x, bias = bench.random(n, c, c), bench.random(n, c, s, s), bench.random(c)
    flat, out = x.flatten(2), torch.empty(n, c, s * s, dtype=bench.dtype, device=bench.device)
    fast = compiled(plain_layer, bench.scale.compile_backend)
    functions: dict[str, Function] = {
        "kernel": lambda: inr_layer(weight, x, bias, act="lrelu", clamp=CLAMP),
        "torch.bmm": lambda: torch.bmm(weight, flat, out=out),
        "PyTorch": lambda: plain_layer(weight, x, bias),
    }
    if fast is not None:
        functions["torch.compile"] = lambda: fast(weight, x, bias)
    size = weight.element_size()
    flops = 2 * n * c * c * s * s
    bytes_ = size * (2 * n * c * s * s + n * c * c)
    bench.compare("inr_layer", f"hidden, {shape}", functions, flops=flops, bytes_=bytes_)


def _measure_first_layer(bench: Bench, shape: LayerShape) -> None:
    """The first layer of a block: context from the lattice below, coordinate features."""
    n, c, s, e = shape.batch, shape.channels, shape.size, shape.coords
    tables = CoordFeatures(
        cols=bench.random(e // 4, s),
        rows=bench.random(e // 4, s),
        shared=bench.random(e // 2, s, s),
    )
    e = tables.num_channels()
    coords = tables.dense(1, s, s)
    weight, bias = bench.random(n, c, c + e), bench.random(c)
    x = bench.random(n, c, s // 2, s // 2)
    taps = doubling_taps(s // 2, "nearest", bench.device)
    w_context, w_coords = (w.contiguous() for w in weight.split([c, e], 2))
    low, high = x.flatten(2), coords.flatten(2).expand(n, -1, -1)
    fast = compiled(plain_layer, bench.scale.compile_backend)
    functions: dict[str, Function] = {
        "kernel": lambda: inr_layer(
            weight, x, bias, taps=(taps, taps), coords=tables, act="lrelu", clamp=CLAMP
        ),
        "torch.bmm": lambda: (torch.bmm(w_context, low), torch.bmm(w_coords, high)),
        "PyTorch": lambda: plain_layer(weight, x, bias, coords, "nearest"),
    }
    if fast is not None:
        functions["torch.compile"] = lambda: fast(weight, x, bias, coords, "nearest")
    size = weight.element_size()
    flops = 2 * n * c * (c * (s // 2) ** 2 + e * s * s)
    values = n * c * (s // 2) ** 2 + n * c * s * s + n * c * (c + e) + e // 2 * s * s
    case = f"first of a block, {c}+{e}->{c} at {s}x{s}, batch {n}"
    bench.compare("inr_layer", case, functions, flops=flops, bytes_=size * values)


def _measure_layer_gradient(bench: Bench, shape: LayerShape) -> None:
    n, c, s = shape.batch, shape.channels, shape.size
    leaves = [bench.random(n, c, c), bench.random(n, c, s, s), bench.random(c)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    v = bench.random(n, c, s, s)

    def gradient(layer: Callable[..., Tensor]) -> Function:
        return lambda: torch.autograd.grad(layer(*leaves), leaves, v)

    def product(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias[:, None], weight, x.flatten(2)).unflatten(2, x.shape[2:])

    functions = {
        "kernel": gradient(lambda w, x, b: inr_layer(w, x, b, act="lrelu", clamp=CLAMP)),
        "torch.bmm": gradient(product),
        "PyTorch": gradient(plain_layer),
    }
    size = v.element_size()
    # Forward x and y; backward v, y and x again, and the gradient of x.
    bytes_ = size * (6 * n * c * s * s + 4 * n * c * c)
    case = f"hidden, forward and backward, {shape}"
    flops = 6 * n * c * c * s * s
    bench.compare("inr_layer", case, functions, flops=flops, bytes_=bytes_)
