"""The kernels of upfirdn2d: C++ on the CPU, CUDA on a GPU or emulated, equal the definition."""

from __future__ import annotations

import pytest
import torch

from ops.registry import BLUR, CASES, LONG, SKEWED, OpCase
from ops.upfirdn2d import kernels, reference, setup_filter, upfirdn2d, upsample2d
from tests.compare import assert_close_to_ref, assert_grad_close, assert_same_numbers
from tests.ops.emulated import emulated_op
from tests.ops.native_cases import (
    Backend,
    as_function,
    assert_compiles,
    backend_fixture,
    gradients,
    leaves,
)

# Sizes around the 32 x 32 tile of the tiled kernel, one block and several, and every kind of pass.
TILES = [
    OpCase("upfirdn2d", f"tile-{name}-{h}x{w}", {"x": (1, 2, h, w)}, options, BLUR)
    for h, w in ((31, 33), (32, 32), (65, 8))
    for name, options in (
        ("blur", {"padding": [2, 1, 2, 1]}),
        ("up", {"up": 2, "padding": [2, 1, 2, 1], "gain": 4}),
        ("down", {"down": 2, "padding": 1, "flip_filter": True}),
    )
]
FIR = [case for case in CASES if case.op == "upfirdn2d" and case.small] + TILES
FEW = [case for case in FIR if case.name in ("blur", "mixed", "separable-up", "tile-down-31x33")]
backend = backend_fixture("upfirdn2d")
every_case = pytest.mark.parametrize("case", FIR, ids=str)


def skip_unsupported(backend: Backend, case: OpCase) -> None:
    if backend.name == "cpp" and case.name == "mixed":
        pytest.skip("the C++ kernel does not up- and down-sample along one axis")


def test_kernels_give_numbers_worked_out_by_hand(backend: Backend) -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]], device=backend.device, requires_grad=True)
    f = torch.tensor([[1.0, 10.0]], device=backend.device)
    # A convolution: y[o] = x[o] + 10 x[o - 1], one zero on each side.
    y = upfirdn2d(x, f, padding=[1, 1, 0, 0], impl=backend.impl)
    assert y.tolist() == [[[[1.0, 12.0, 23.0, 30.0]]]]
    up = upfirdn2d(x, f, up=[2, 1], padding=[1, 0, 0, 0], impl=backend.impl)
    assert up.tolist() == [[[[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]]]]
    y.backward(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]], device=backend.device))
    assert x.grad.tolist() == [[[[21.0, 32.0, 43.0]]]]
    assert backend.used()


@every_case
@pytest.mark.parametrize("layout", ["dense", "sliced", "channels-last"])
def test_forward(backend: Backend, case: OpCase, layout: str) -> None:
    skip_unsupported(backend, case)
    tensors = case.inputs(device=backend.device)
    expected = case.bind(reference=True, device=backend.device)(**tensors)
    x = tensors["x"]
    if layout == "sliced":
        larger = x.new_full([2 * size + 1 for size in x.shape], torch.nan)
        tensors["x"] = larger[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x)
    elif layout == "channels-last":
        tensors["x"] = x.contiguous(memory_format=torch.channels_last)
    actual = case.bind(device=backend.device)(**tensors, impl=backend.impl)
    assert_same_numbers(actual, expected, 1e-6)


@pytest.mark.parametrize("taps", [BLUR, SKEWED, LONG, (1.0,)], ids=["blur", "odd", "long", "one"])
@pytest.mark.parametrize("options", [{"up": 2}, {"down": 2}, {"up": 3}, {"down": 3}, {}], ids=str)
def test_factors_and_paddings(backend: Backend, taps: tuple, options: dict) -> None:
    x = torch.randn(2, 2, 9, 41, generator=torch.Generator().manual_seed(0)).to(backend.device)
    f = setup_filter(taps, device=backend.device)
    for padding in ([7, -2, 0, 9], [-3, 8, 8, -1], [len(taps), 0, 1, len(taps)]):
        for flip in (False, True):
            arguments = {"padding": padding, "flip_filter": flip, "gain": 1.5, **options}
            actual = upfirdn2d(x, f, **arguments, impl=backend.impl)
            assert_same_numbers(actual, reference.upfirdn2d(x, f, **arguments), 1e-6)


@pytest.mark.parametrize("down", [1, 2, [1, 2], [2, 1], [2, 3]], ids=str)
def test_four_taps_at_every_small_width(backend: Backend, down: int | list[int]) -> None:
    """Around vectors of every length; several strips of rows."""
    f = setup_filter([1, 3, 2, 5], device=backend.device)
    for width in (*range(1, 20), 40):
        x = torch.linspace(-1, 2, 45 * width, device=backend.device).sin().view(1, 1, 45, width)
        for padding in ([2, 2, 2, 2], [6, 3, -1, 7], [-width + 1, 5, 0, 0]):
            arguments = {"down": down, "padding": padding}
            actual = upfirdn2d(x, f, **arguments, impl=backend.impl)
            assert_same_numbers(actual, reference.upfirdn2d(x, f, **arguments), 1e-6)


@every_case
def test_first_order(backend: Backend, case: OpCase) -> None:
    skip_unsupported(backend, case)
    function, args = as_function(case, leaves(case, backend.device), backend.impl)
    assert torch.autograd.gradcheck(function, args, fast_mode=True)
    for actual, expected in zip(*(gradients(case, backend, ref) for ref in (False, True))):
        assert_same_numbers(actual, expected, 1e-5)


@every_case
def test_second_order_and_a_penalty(backend: Backend, case: OpCase) -> None:
    skip_unsupported(backend, case)
    function, args = as_function(case, leaves(case, backend.device), backend.impl)
    assert torch.autograd.gradgradcheck(function, args, fast_mode=True)
    results = []
    for impl in (backend.impl, "ref"):
        function, (x,) = as_function(case, leaves(case, backend.device), impl)
        (gradient,) = torch.autograd.grad(function(x.tanh()).cos().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    assert_same_numbers(*results, 1e-9)


@pytest.mark.parametrize("case", FEW, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_low_precision(backend: Backend, case: OpCase, dtype: torch.dtype) -> None:
    if backend.name == "cpp":
        pytest.skip("the C++ kernel leaves low precision to PyTorch")
    results = []
    for impl, precision in ((backend.impl, dtype), ("ref", dtype), ("ref", torch.float64)):
        x = case.inputs()["x"].to(dtype).to(backend.device, precision).requires_grad_()
        function, _ = as_function(case, {"x": x}, impl)
        y = function(x)
        v = torch.linspace(-1, 1, y.numel()).to(dtype).to(backend.device, precision).view_as(y)
        results.append([y, *torch.autograd.grad(y, x, v)])
    floor = torch.finfo(dtype).eps
    assert_close_to_ref(*(result[0] for result in results), floor=floor)
    assert_grad_close(*(result[1] for result in results), floor=2 * floor, cosine=0.99)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_hygiene(backend: Backend, case: OpCase, poisoned_memory: None) -> None:
    skip_unsupported(backend, case)
    first, second = (gradients(case, backend, False) for _ in range(2))
    for a, b in zip(first, second):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)


@pytest.mark.parametrize("order", ["descending", "random"])
def test_the_order_of_threads_does_not_matter(backend: Backend, order: str) -> None:
    if backend.name != "emulated":
        pytest.skip("only an emulation chooses the order")
    case = next(case for case in TILES if case.options.get("down") == 2)
    x = case.inputs()["x"]
    expected = case.bind()(x=x, impl="cpp")
    with emulated_op("upfirdn2d", order):
        assert torch.equal(case.bind()(x=x, impl="cpp"), expected)


def test_filters_that_no_kernel_takes(backend: Backend) -> None:
    x = torch.ones(1, 1, 30, 30, device=backend.device)
    f = torch.ones(25, 25, device=backend.device)
    if backend.name == "cpp":
        f[0, 0] = 0  # no longer separable
    with pytest.raises(RuntimeError, match="impl='cpp' cannot run"):
        upfirdn2d(x, f, impl="cpp")
    assert_same_numbers(upfirdn2d(x, f), reference.upfirdn2d(x, f), 1e-6)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_registered_operator(
    backend: Backend, separable: bool, memory_format: torch.memory_format
) -> None:
    """What `torch.compile` needs: a schema and a fake kernel that tells the truth."""
    x = torch.randn(2, 3, 7, 6, device=backend.device).contiguous(memory_format=memory_format)
    f = setup_filter(SKEWED, device=backend.device, separable=separable)
    for impl, always in (("ref", False), (backend.impl, False), (backend.impl, True)):
        options = [3, 1], [1, 2], [1, 2], [5, 4], True, 2.0, impl, always
        torch.library.opcheck(kernels.filtered.operator, (x, f, *options))


@pytest.mark.parametrize("impl", ["auto", "asked-for"])
@pytest.mark.parametrize("options", [{"padding": 2}, {"up": 2}, {"down": 2}, {"f": None}], ids=str)
def test_compiled_without_a_break(backend: Backend, options: dict, impl: str) -> None:
    f = options.get("f", setup_filter(BLUR, device=backend.device))
    impl = "auto" if impl == "auto" else backend.impl

    def layer(x: torch.Tensor) -> torch.Tensor:
        y = upfirdn2d(x.tanh(), **{"f": f, **options}, gain=1.5, impl=impl)
        return y.square().sum()

    x = torch.randn(2, 3, 12, 9, device=backend.device, requires_grad=True)
    assert_compiles(layer, (x,), {"upfirdn2d"})


def test_compiled_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_OPS", "plain")
    f = setup_filter(BLUR)
    x = torch.randn(2, 3, 12, 9, requires_grad=True)
    assert_compiles(lambda x: upsample2d(x, f).square().sum(), (x,), {"upfirdn2d"})
