"""The CUDA kernels of inr_layer, on a GPU or emulated on the CPU, equal the definition."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from networks.fourier import axis_taps
from networks.lattice import Sampling, axis_levels, grid_points
from ops.inr_layer import (
    AxisTaps,
    CoordFeatures,
    PointTaps,
    inr_layer,
    kernels,
    native,
    reference,
)
from ops.inr_layer.autograd import layer_with_image, native_layer, supports
from tests.ops.emulated import emulated_op
from tests.ops.native_cases import Backend, backend_fixture

pytestmark = pytest.mark.usefixtures("poisoned_memory")
backend = backend_fixture("inr_layer", ("emulated", "cuda"))

LOW = (torch.float16, torch.bfloat16)


class Case(NamedTuple):
    """One layer: sizes that are odd on purpose, small enough for a few tiles."""

    out_channels: int
    in_channels: int = 0
    size: tuple[int, int] = (5, 7)
    upsampling: str | None = None
    coords: str = ""  # which parts: c(ols), r(ows), s(hared), o(wn)
    bias: str = "shared"
    act: str = "lrelu"
    gain: float | None = None
    clamp: float | None = None
    n: int = 2


CASES = {
    "product": Case(5, 3, bias="no", act="linear"),
    "two-tiles": Case(67, 37, (9, 15)),
    "aligned": Case(64, 48, (8, 16), clamp=0.5),
    "bias-per-image": Case(7, 33, bias="own", act="relu", gain=0.5),
    "nearest": Case(9, 8, (6, 10), "nearest", "crso"),
    "bilinear": Case(9, 8, (7, 9), "bilinear", "crso", clamp=0.7),
    "bilinear-aligned": Case(8, 16, (8, 16), "bilinear", "crs"),
    "upsampling-only": Case(3, 2, (4, 6), "nearest", act="linear"),
    "coordinates-only": Case(6, 0, coords="crso", bias="no"),
    "tables-only": Case(6, 0, coords="cr", act="relu"),
    "features-and-coordinates": Case(70, 8, (3, 8), coords="cso", clamp=2.0),
    "one-point": Case(1, 1, (1, 1), n=1),
    "one-own": Case(4, 0, (3, 5), coords="o", n=1),
}


def make_axis(upsampling: str, count: int, dtype: torch.dtype, device) -> AxisTaps:
    points = grid_points(Fraction(0), Fraction(3, 4), count)
    level = axis_levels(points, (count // 2 + 1, count + 2), Sampling(upsampling))[-1]
    taps = axis_taps(level.taps, torch.device("cpu"))
    return taps._replace(index=taps.index.to(device), weight=taps.weight.to(device, dtype))


def make_inputs(case: Case, dtype: torch.dtype, device) -> tuple[list[Tensor | None], dict]:
    """weight, x, bias, cols, rows, shared, own (or None), the same numbers for every dtype."""
    generator = torch.Generator().manual_seed(7)

    def new(*shape: int, scale: float = 1) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return values.to(device, dtype)

    height, width = case.size
    taps = None
    if case.upsampling:
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        taps = tuple(make_axis(case.upsampling, n, exact, device) for n in case.size)
    parts = {"c": (2, width), "r": (3, height), "s": (4, height, width)}
    parts["o"] = (case.n, 2, height, width)
    cols, rows, shared, own = [new(*parts[p]) if p in case.coords else None for p in "crso"]
    depth = case.in_channels + sum({"c": 2, "r": 3, "s": 4, "o": 2}[p] for p in case.coords)
    low = (taps[0].size, taps[1].size) if taps else case.size
    x = new(case.n, case.in_channels, *low) if case.in_channels else None
    weight = new(case.n, case.out_channels, depth, scale=depth**-0.5)
    bias = {"no": (), "shared": (case.out_channels,), "own": (case.n, case.out_channels)}[case.bias]
    options = {"taps": taps, "act": case.act, "gain": case.gain, "clamp": case.clamp}
    return [weight, x, new(*bias) if bias else None, cols, rows, shared, own], options


def run(function, tensors: list[Tensor | None], options: dict) -> Tensor:
    weight, x, bias, *parts = tensors
    coords = CoordFeatures(*parts) if any(p is not None for p in parts) else None
    return function(weight, x, bias, coords=coords, **options)


def run_all(function, case: Case, dtype: torch.dtype, device, like=None) -> list[Tensor]:
    """The output and the gradients of all inputs, for one fixed gradient of the output."""
    tensors, options = make_inputs(case, dtype, device)
    if like is not None:  # exact arithmetic on the numbers as `like` rounds them
        tensors = [None if t is None else t.to(like).to(dtype) for t in tensors]
    leaves = [t.requires_grad_() for t in tensors if t is not None]
    y = run(function, tensors, options)
    generator = torch.Generator().manual_seed(8)
    grad = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(device, like or dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def error(actual: Tensor, exact: Tensor) -> float:
    """Relative root mean square."""
    exact = exact.double()
    return ((actual.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


def on_kernels(backend: Backend):
    return lambda *args, **kwargs: native_layer(backend.impl, *args, **kwargs)


@pytest.mark.parametrize("name", CASES)
def test_float32_and_its_gradients(backend, name):
    exact = run_all(reference.inr_layer, CASES[name], torch.float64, backend.device)
    actual = run_all(on_kernels(backend), CASES[name], torch.float32, backend.device)
    for result, expected in zip(actual, exact):
        assert result.shape == expected.shape
        assert error(result, expected) <= 1e-5


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", CASES)
def test_low_precision_and_its_gradients(backend, name, dtype):
    case, device = CASES[name], backend.device
    exact = run_all(reference.inr_layer, case, torch.float64, device, like=dtype)
    plain = run_all(reference.inr_layer, case, dtype, device)
    actual = run_all(on_kernels(backend), case, dtype, device)
    rounding = torch.finfo(dtype).eps
    for result, expected, usual in zip(actual, exact, plain):
        assert result.dtype == dtype
        # Half an eps is the rounding of an exact result; the definition may be luckier than that.
        assert error(result, expected) <= 2 * max(error(usual, expected), rounding / 2)


def test_the_public_function_runs_the_kernels(backend, monkeypatch):
    tensors, options = make_inputs(CASES["bilinear"], torch.float32, backend.device)
    calls = []
    library = backend.library()
    record = library.call

    def call(function, **fields):
        calls.append(function)
        return record(function, **fields)

    monkeypatch.setattr(library, "call", call)
    actual = run(inr_layer, tensors, {**options, "impl": backend.impl})
    assert "inr_layer_forward" in calls
    assert error(actual, run(reference.inr_layer, tensors, options)) <= 1e-5


def test_compilers_see_operators(backend):
    device = backend.device
    for name in ("bilinear", "bias-per-image"):
        tensors, options = make_inputs(CASES[name], torch.float32, device)
        taps = [None] * 4
        if options["taps"]:
            taps = [part for axis in options["taps"] for part in (axis.index, axis.weight)]
        constants = ("lrelu", 1.5, 0.7, backend.impl)
        torch.library.opcheck(native.forward.operator, (*tensors, *taps, *constants))
        y = native.forward(*tensors, *taps, *constants)
        wanted = [t is not None for t in tensors]
        args = (torch.randn_like(y), y, *tensors, *taps, *constants[:-1], wanted, backend.impl)
        torch.library.opcheck(native.gradients.operator, args)


def test_compiled_layer(backend):
    tensors, options = make_inputs(CASES["bilinear"], torch.float32, backend.device)
    leaves = [t.clone().requires_grad_() for t in tensors]
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    y = compiled(inr_layer, leaves, {**options, "impl": backend.impl})
    expected = run(inr_layer, leaves, {**options, "impl": backend.impl})
    assert torch.equal(y, expected)
    weights = torch.randn_like(y)
    actual = torch.autograd.grad((y * weights).sum(), leaves)
    for first, second in zip(actual, torch.autograd.grad((expected * weights).sum(), leaves)):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["bilinear", "coordinates-only", "product"])
def test_gradcheck(backend, name):
    case = CASES[name]._replace(out_channels=2, size=(2, 3), n=1)
    case = case._replace(in_channels=min(case.in_channels, 1))
    tensors, options = make_inputs(case, torch.float64, backend.device)
    leaves = [t.requires_grad_() for t in tensors if t is not None]

    def call(*given):
        remaining = iter(given)
        return run(
            on_kernels(backend), [None if t is None else next(remaining) for t in tensors], options
        )

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def test_gradient_penalty_through_two_layers(backend):
    tensors, options = make_inputs(CASES["nearest"], torch.float64, backend.device)
    following = torch.randn(2, 3, 9, dtype=torch.float64, device=backend.device)

    def penalty(function) -> list[Tensor]:
        leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
        second = following.clone().requires_grad_()
        y = function(second, run(function, leaves, options), act="lrelu")
        (slope,) = torch.autograd.grad(y.square().sum(), leaves[1], create_graph=True)
        inputs = [leaves[0], leaves[1], second]
        return list(torch.autograd.grad(slope.square().sum(), inputs))

    for actual, expected in zip(penalty(on_kernels(backend)), penalty(reference.inr_layer)):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("out_channels,depth,size", [(130, 40, (3, 48)), (100, 136, (5, 26))])
def test_large_tiles(backend, dtype, out_channels, depth, size):
    library, device = backend.library(), backend.device
    weight = torch.randn(1, out_channels, depth, device=device).to(dtype)
    x = torch.randn(1, depth, *size, device=device).to(dtype)
    activation = kernels.Activation(1.0, 0.2)
    y, _none = kernels.forward(library, weight, [(x, 0)], size, activation=activation, tile=128)
    exact = torch.bmm(weight.double(), x.double().flatten(2)).unflatten(2, size)
    exact = torch.nn.functional.leaky_relu(exact, 0.2)
    limit = 2 * torch.finfo(dtype).eps
    assert error(y, exact) <= limit
    grad = torch.randn_like(y)
    inner = (grad.double() * torch.where(y > 0, 1.0, 0.2)).flatten(2)
    dx = kernels.input_grad(library, weight, 0, depth, grad, y, activation, tile=128)
    assert error(dx.flatten(2), weight.double().mT @ inner) <= limit
    dw = torch.empty_like(weight)
    kernels.weight_grad(library, dw, 0, x, grad, y, activation, tile=128)
    assert error(dw, inner @ x.double().flatten(2).mT) <= limit
    # Without an activation the gradients need no registers on their way.
    dx = kernels.input_grad(library, weight, 0, depth, grad, tile=128)
    assert error(dx.flatten(2), weight.double().mT @ grad.double().flatten(2)) <= limit
    kernels.weight_grad(library, dw, 0, x, grad, tile=128)
    assert error(dw, grad.double().flatten(2) @ x.double().flatten(2).mT) <= limit


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("splits", [2, 3, 5])
def test_weight_gradients_in_parts(backend, dtype, splits):
    x = torch.randn(2, 5, 13, 23, device=backend.device).to(dtype)
    grad = torch.randn(2, 6, 13, 23, device=backend.device).to(dtype)
    out = torch.full([2, 6, 9], 7.0, device=backend.device).to(dtype)
    kernels.weight_grad(backend.library(), out, 3, x, grad, splits=splits)
    exact = grad.double().flatten(2) @ x.double().flatten(2).mT
    assert error(out[:, :, 3:8], exact) <= max(torch.finfo(dtype).eps, 1e-6)
    assert (out[:, :, :3] == 7).all() and (out[:, :, 8:] == 7).all()
    total = kernels.weight_grad(
        backend.library(), out, 3, x, grad, torch.ones_like(grad), splits=splits, total=True
    )
    assert error(total, grad.double().sum((2, 3))) <= 1e-6
    assert error(out[:, :, 3:8], exact) <= max(torch.finfo(dtype).eps, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("out_channels,colors", [(9, 1), (70, 3), (130, 4)])
def test_colors_are_a_product_with_the_stored_features(backend, dtype, out_channels, colors):
    tensors, options = make_inputs(
        Case(out_channels, 6, (5, 16), "bilinear"), dtype, backend.device
    )
    weight, x, bias = tensors[:3]
    rgb = torch.randn(2, colors, out_channels, device=backend.device).to(dtype)
    library = backend.library()
    context, _none = kernels.forward(library, weight, [(x, 0)], tuple(x.shape[2:]))
    for tile in (64,) if dtype == torch.float64 else (64, 128):
        y, image = kernels.forward(
            library,
            weight,
            [],
            (5, 16),
            context=context,
            taps=options["taps"],
            bias=bias,
            activation=kernels.Activation(2**0.5, 0.2),
            rgb=rgb,
            tile=tile,
        )
        exact = (rgb.double() @ y.double().flatten(2)).unflatten(2, (5, 16))
        assert image.dtype == kernels.accumulator(dtype)
        assert error(image, exact) <= 1e-5
        assert error(y, run(reference.inr_layer, tensors, options)) <= 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ["bilinear", "coordinates-only", "aligned"])
def test_a_layer_with_its_image(backend, name):
    tensors, options = make_inputs(CASES[name], torch.float16, backend.device)
    weight, x, bias, *parts = tensors
    coords = CoordFeatures(*parts) if any(p is not None for p in parts) else None
    rgb = torch.randn(2, 3, weight.shape[1], device=backend.device).half()
    call = (backend.impl, rgb, weight, x, bias)
    y, image = layer_with_image(*call, coords=coords, **options)
    assert torch.equal(y, run(on_kernels(backend), tensors, options))
    exact = (rgb.double() @ y.double().flatten(2)).unflatten(2, y.shape[2:])
    assert image.dtype == torch.float32 and error(image, exact) <= 1e-5
    nothing, same = layer_with_image(*call, coords=coords, want_features=False, **options)
    assert nothing is None and torch.equal(same, image)


def test_compilers_see_the_layer_with_its_image(backend):
    tensors, options = make_inputs(CASES["bilinear"], torch.bfloat16, backend.device)
    taps = [part for axis in options["taps"] for part in (axis.index, axis.weight)]
    rgb = torch.randn(2, 4, 9, device=backend.device).bfloat16()
    for want_features in (True, False):
        args = (rgb, want_features, *tensors, *taps, "lrelu", 1.5, 0.7, backend.impl)
        tests = ("test_schema", "test_faketensor")
        torch.library.opcheck(native.forward_with_image.operator, args, test_utils=tests)


def test_the_kernel_wants_something_to_compute(backend):
    weight, x = torch.randn(1, 2, 3), torch.randn(1, 3, 4, 5)
    tensors = [tensor.to(backend.device) for tensor in (weight, x)]
    with pytest.raises(RuntimeError, match="nothing is wanted"):
        kernels.forward(
            backend.library(), tensors[0], [(tensors[1], 0)], (4, 5), want_features=False
        )


@pytest.mark.parametrize("name", ["two-tiles", "bilinear", "features-and-coordinates"])
def test_order_of_threads_does_not_matter(backend, name):
    if backend.impl == "cuda":
        repeated = [
            run_all(on_kernels(backend), CASES[name], torch.float16, "cuda") for _ in range(3)
        ]
    else:
        repeated = []
        for order in ("ascending", "descending", "random"):
            with emulated_op("inr_layer", order=order):
                repeated.append(run_all(on_kernels(backend), CASES[name], torch.float16, "cpu"))
    for again in repeated[1:]:
        for first, second in zip(repeated[0], again):
            assert torch.equal(first, second)


def test_not_a_number_is_not_hidden_by_the_clamp(backend):
    weight = torch.full([1, 2, 1], float("nan"), device=backend.device)
    x = torch.ones(1, 1, 2, 2, device=backend.device)
    y = native_layer(backend.impl, weight, x, act="lrelu", clamp=1.0)
    assert y.isnan().all()


def test_reasons_for_the_plain_path():
    weight, x = torch.randn(2, 4, 3), torch.randn(2, 3, 5, 6)
    assert supports(weight, x) is None
    assert "tanh" in supports(weight, x, act="tanh")
    assert "gain" in supports(weight, x, gain=-1.0)
    assert "clamp" in supports(weight, x, clamp=-1.0)
    assert "int32" in supports(weight.int(), x)
    assert "dtypes" in supports(weight, x.half())
    assert "coordinates" in supports(weight, x[:, :, 0])
    assert "empty" in supports(weight, x[:0])
    points = PointTaps(torch.zeros(7, 1, dtype=torch.int64), torch.ones(7, 1), 30)
    assert "points" in supports(weight, x, taps=(points,))
    rows = AxisTaps(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1), 5)
    cols = AxisTaps(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1), 6)
    assert supports(weight, x, taps=(rows, cols)) is None
    three = cols._replace(index=cols.index.expand(4, 3), weight=torch.ones(4, 3) / 3)
    assert "bilinear" in supports(weight, x, taps=(rows, three))
    assert "bilinear" in supports(weight, x, taps=(three._replace(size=5), three))
    learned = cols._replace(weight=cols.weight.clone().requires_grad_())
    assert "gradient" in supports(weight, x, taps=(rows, learned))
    assert "size" in supports(weight, x, taps=(cols, rows))
    slices = CoordFeatures(slices=torch.randn(3, 2))
    assert "coordinates" in supports(weight, x, coords=slices)
