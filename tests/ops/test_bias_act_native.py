"""The kernels of bias_act: C++ for CPU tensors, CUDA on a GPU or emulated, equal the definition."""

from __future__ import annotations

import pytest
import torch

from ops import _dispatch
from ops.bias_act import bias_act, kernels
from ops.registry import CASES, OpCase
from tests.compare import assert_close_to_ref, assert_grad_close, assert_same_numbers
from tests.ops.native_cases import (
    Backend,
    as_function,
    assert_compiles,
    backend_fixture,
    gradients,
    leaves,
)

BIAS_ACT = [case for case in CASES if case.op == "bias_act" and case.small]
MIXED = [case for case in BIAS_ACT if case.name in ("lrelu", "swish-clamp", "last-dim", "no-bias")]
backend = backend_fixture("bias_act")
every_case = pytest.mark.parametrize("case", BIAS_ACT, ids=str)


def skip_unsupported(backend: Backend, case: OpCase) -> None:
    act = case.options.get("act", "linear")
    if backend.name == "cpp" and act not in kernels.PIECEWISE_LINEAR:
        pytest.skip("the C++ kernel leaves the smooth activations to PyTorch")


def test_kernels_give_numbers_worked_out_by_hand(backend: Backend) -> None:
    x = torch.tensor([[-3.0, 0.5], [2.0, -0.5]], device=backend.device, requires_grad=True)
    b = torch.tensor([1.0, 0.0], device=backend.device, requires_grad=True)
    y = bias_act(x, b, act="lrelu", alpha=0.5, gain=2, clamp=3, impl=backend.impl)
    assert y.tolist() == [[-2.0, 1.0], [3.0, -0.5]]
    y.backward(torch.tensor([[1.0, 10.0], [100.0, 1000.0]], device=backend.device))
    # slopes: gain * alpha = 1 below zero, gain = 2 above, 0 where clamped
    assert x.grad.tolist() == [[1.0, 20.0], [0.0, 1000.0]]
    assert b.grad.tolist() == [1.0, 1020.0]
    assert backend.used()


def test_what_is_clipped_has_no_gradient_in_low_precision(backend: Backend) -> None:
    # 0.7 is no bfloat16: what is stored is a little more or less than the limit.
    if backend.name == "cpp":
        pytest.skip("the C++ kernel leaves bfloat16 to PyTorch")
    for clamp in (0.7, 0.3, 1.1):
        x = torch.linspace(-3, 3, 40, device=backend.device).to(torch.bfloat16).requires_grad_()
        y = bias_act(x, act="lrelu", gain=1, clamp=clamp, impl=backend.impl)
        y.sum().backward()
        clipped = y.detach().abs() == torch.tensor(clamp).to(torch.bfloat16).item()
        assert clipped.any() and torch.equal(x.grad == 0, clipped)


@every_case
@pytest.mark.parametrize("layout", ["dense", "sliced", "channels-last"])
def test_forward(backend: Backend, case: OpCase, layout: str) -> None:
    skip_unsupported(backend, case)
    tensors = case.inputs(device=backend.device)
    expected = case.bind(reference=True)(**tensors)
    x = tensors["x"]
    if layout == "sliced":
        larger = x.new_full([2 * size + 1 for size in x.shape], torch.nan)
        tensors["x"] = larger[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x)
    elif layout == "channels-last" and x.ndim == 4:
        tensors["x"] = x.contiguous(memory_format=torch.channels_last)
    actual = case.bind()(**tensors, impl=backend.impl)
    assert_same_numbers(actual, expected, 1e-6)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 255, 256, 257, 1021, 40_000])
def test_sizes_around_vectors_and_blocks(backend: Backend, size: int) -> None:
    shape = (size, 3) if size % 2 else (1, 3, size)
    generator = torch.Generator().manual_seed(size)
    x, b = (torch.randn(s, generator=generator).to(backend.device) for s in (shape, (3,)))
    actual = bias_act(x, b, act="relu", impl=backend.impl)
    assert_same_numbers(actual, bias_act(x, b, act="relu", impl="ref"), 1e-6)


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
        function, args = as_function(case, leaves(case, backend.device), impl)
        y = function(torch.tanh(args[0]), *args[1:])
        (gradient,) = torch.autograd.grad(torch.cos(y).sum(), args[0], create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), args, allow_unused=True))
    for actual, expected in zip(*results):
        assert (actual is None) == (expected is None)
        if actual is not None:
            assert_same_numbers(actual, expected, 1e-9)


@pytest.mark.parametrize("act", ["swish", "tanh", "softplus"])
def test_third_order_is_composed(backend: Backend, act: str) -> None:
    if backend.name == "cpp":
        pytest.skip("the C++ kernel leaves the smooth activations to PyTorch")
    results = []
    for impl in (backend.impl, "ref"):
        x = torch.linspace(-2, 2, 7, device=backend.device).double().requires_grad_()
        y = bias_act(x[None], None, act=act, impl=impl)
        for _ in range(3):
            (y,) = torch.autograd.grad((y * x.detach().cos()).sum(), x, create_graph=True)
        results.append(y)
    assert_same_numbers(*results, 1e-9)


@pytest.mark.parametrize("case", MIXED, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_low_precision(backend: Backend, case: OpCase, dtype: torch.dtype) -> None:
    if backend.name == "cpp":
        pytest.skip("the C++ kernel leaves low precision to PyTorch")
    results = []
    for impl, precision in ((backend.impl, dtype), ("ref", dtype), ("ref", torch.float64)):
        tensors = {
            name: tensor.to(dtype).to(backend.device, precision).requires_grad_()
            for name, tensor in case.inputs().items()
        }
        function, args = as_function(case, tensors, impl)
        y = function(*args)
        v = torch.linspace(-1, 1, y.numel()).to(dtype).to(backend.device, precision).view_as(y)
        results.append([y, *torch.autograd.grad(y, args, v)])
    floor = torch.finfo(dtype).eps
    assert_close_to_ref(*(result[0] for result in results), floor=floor)
    for values in zip(*(result[1:] for result in results)):
        assert_grad_close(*values, floor=2 * floor, cosine=0.99)


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_hygiene(backend: Backend, case: OpCase, poisoned_memory: None) -> None:
    skip_unsupported(backend, case)
    first, second = (gradients(case, backend, False) for _ in range(2))
    for a, b in zip(first, second):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)


def test_the_reason_is_named(backend: Backend) -> None:
    if backend.name == "emulated":
        pytest.skip("registered without reasons")
    x = torch.zeros(1, 2, dtype=torch.int32, device=backend.device)
    kernel = _dispatch.choose("bias_act", (x,), "auto")
    assert kernel[0] == "ref"
    assert "int32" in kernel[1][0]


def test_registered_operators(backend: Backend) -> None:
    """What `torch.compile` needs: schemas and fake kernels that tell the truth."""
    x, dy = torch.randn(2, 2, 3, 4, 5, device=backend.device)
    b = torch.randn(3, device=backend.device)
    options = 1, "lrelu", 0.2, 2**0.5, 0.7, backend.impl
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=memory_format)
        torch.library.opcheck(kernels.forward.operator, (x, b, *options))
        for wants_db in (False, True):
            torch.library.opcheck(kernels.gradient.operator, (dy, x, b, *options, wants_db))
    if backend.name != "cpp":
        options = 1, "swish", *options[2:]
        torch.library.opcheck(kernels.curvature.operator, (dy, dy + 1, x, b, *options))


@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_compiled_without_a_break(backend: Backend, act: str) -> None:
    if backend.name == "cpp" and act == "swish":
        pytest.skip("the C++ kernel leaves the smooth activations to PyTorch")

    def layer(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bias_act(x.tanh(), b, act=act, clamp=0.7, impl=backend.impl).square().sum()

    x = torch.randn(2, 3, 8, 5, device=backend.device, requires_grad=True)
    b = torch.randn(3, device=backend.device, requires_grad=True)
    assert_compiles(layer, (x, b), {"bias_act_forward", "bias_act_gradient"})
