"""The kernels of fourier, in C++, and for CUDA on a GPU or emulated, equal the definition."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ops import _dispatch
from ops.fourier import fourier, reference
from ops.fourier.autograd import angle_sums, features, native_fourier, row_gradients, supports
from tests.ops.emulated import emulated_op
from tests.ops.native_cases import Backend, backend_fixture

pytestmark = pytest.mark.usefixtures("poisoned_memory")
backend = backend_fixture("fourier")

# Images (0 = shared rows), frequencies, height, width: vectors that end within a row and beyond
# the last point, more columns and rows than one pass of the sums holds.
SHAPES = {
    "shared": (0, 5, 3, 16),
    "own": (2, 3, 5, 7),
    "one": (0, 1, 1, 1),
    "wide": (0, 2, 2, 37),
    "high": (1, 2, 19, 4),
}


def on_kernels(backend: Backend) -> Callable[..., Tensor]:
    return functools.partial(native_fourier, backend.impl)


def make_inputs(name: str, dtype: torch.dtype, device, with_phase: bool) -> list[Tensor | None]:
    """u, v, rows, phase."""
    images, k, height, width = SHAPES[name]
    generator = torch.Generator().manual_seed(3)
    shapes = [(width,), (height,), (*([images] if images else []), k, 2)]
    shapes.append(shapes[2][:-1])
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    tensors[2] *= 3
    tensors = [t.to(device, dtype) for t in tensors]
    return tensors if with_phase else [*tensors[:3], None]


def run_all(function, tensors: list[Tensor | None]) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    inputs = [t for t in leaves if t is not None]
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(y.device, y.dtype))]


def error(actual: Tensor, exact: Tensor) -> float:
    """Relative root mean square."""
    return ((actual.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


@pytest.mark.parametrize("with_phase", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_float32_and_its_gradients(backend, name, with_phase):
    tensors = make_inputs(name, torch.float32, backend.device, with_phase)
    exact = run_all(reference.fourier, [None if t is None else t.double() for t in tensors])
    for actual, expected in zip(run_all(on_kernels(backend), tensors), exact):
        assert actual.shape == expected.shape
        assert error(actual, expected) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPES)
def test_low_precision_rounds_only_results(backend, name, dtype):
    if dtype not in backend.half_types():
        pytest.skip("C++ has no float16")
    tensors = make_inputs(name, dtype, backend.device, True)
    exact = run_all(reference.fourier, [t.double() for t in tensors])
    for actual, expected in zip(run_all(on_kernels(backend), tensors), exact):
        assert actual.dtype == dtype
        assert error(actual, expected) <= torch.finfo(dtype).eps


def test_first_and_second_order(backend):
    tensors = make_inputs("own", torch.float64, backend.device, True)
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(on_kernels(backend), leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(on_kernels(backend), leaves, fast_mode=True)


def test_only_the_gradients_asked_for(backend):
    u, v, rows, _phase = make_inputs("shared", torch.float32, backend.device, True)
    rows.requires_grad_()
    on_kernels(backend)(u, v, rows).sum().backward()
    assert u.grad is None and v.grad is None
    expected = rows.detach().clone().requires_grad_()
    reference.fourier(u, v, expected).sum().backward()
    torch.testing.assert_close(rows.grad, expected.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("with_phase", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_of_rows_and_phase_alone(backend, name, with_phase):
    tensors = make_inputs(name, torch.float32, backend.device, with_phase)
    results = []
    for function, dtype in (
        (on_kernels(backend), torch.float32),
        (reference.fourier, torch.double),
    ):
        u, v, *leaves = [None if t is None else t.to(dtype) for t in tensors]
        leaves = [t.requires_grad_() for t in leaves if t is not None]
        y = function(u, v, *leaves, *[None] * (2 - len(leaves)))
        weight = torch.linspace(-1, 1, y.numel(), dtype=dtype, device=y.device).view_as(y)
        results.append(torch.autograd.grad((y * weight).sum(), leaves))
    for actual, expected in zip(*results, strict=True):
        assert error(actual, expected) <= 1e-5


def test_many_radians(backend):
    """Angles up to 3000, and beyond the multiples of pi/2 that are exact."""
    u = torch.linspace(-1, 1, 41, device=backend.device)
    v = torch.zeros(1, device=backend.device)
    rows = torch.tensor([[3000.0, 0.0], [1e6, 0.0]], device=backend.device)
    actual = on_kernels(backend)(u, v, rows, None).cpu()
    exact = reference.fourier(*[t.cpu().double() for t in (u, v, rows)])
    definition = reference.fourier(u.cpu(), v.cpu(), rows.cpu())
    for k in (0, 1):
        off, allowed = ((t[k::2] - exact[k::2]).abs().max() for t in (actual, definition))
        assert off <= 1.1 * allowed + 2e-7
    assert on_kernels(backend)(u, v, rows * float("inf"), None).isnan().any()


def test_the_public_function_runs_the_kernels(backend, monkeypatch):
    library = _dispatch.kernel_module("fourier", backend.impl)
    calls, record = [], library.call

    def call(function, **fields):
        calls.append(function)
        return record(function, **fields)

    monkeypatch.setattr(library, "call", call)
    tensors = make_inputs("own", torch.float32, backend.device, True)
    actual = fourier(*tensors, impl=backend.impl)
    assert calls == ["fourier_forward"]
    assert error(actual, reference.fourier(*[t.double() for t in tensors])) <= 1e-5


def test_compilers_see_operators(backend):
    tensors = make_inputs("own", torch.float32, backend.device, True)
    torch.library.opcheck(features.operator, (*tensors, backend.impl))
    grad = torch.randn(2, 6, 5, 7, device=backend.device)
    torch.library.opcheck(angle_sums.operator, (grad, *tensors, backend.impl))
    if backend.name == "cpp":
        torch.library.opcheck(row_gradients.operator, (grad, *tensors, backend.impl))
    compiled = torch.compile(features, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*tensors, backend.impl), features(*tensors, backend.impl))


def test_order_of_threads_does_not_matter(backend):
    tensors = make_inputs("wide", torch.float32, backend.device, True)
    first = run_all(on_kernels(backend), tensors)
    if backend.impl == "cuda":
        others = [run_all(on_kernels(backend), tensors) for _ in range(3)]
    elif backend.name == "cpp":
        torch.set_num_threads(3)
        others = [run_all(on_kernels(backend), tensors)]
        torch.set_num_threads(1)
    else:
        others = []
        for order in ("descending", "random"):
            with emulated_op("fourier", order=order):
                others.append(run_all(on_kernels(backend), tensors))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other))


def test_reasons_for_the_plain_path():
    u, v, rows, phase = make_inputs("shared", torch.float32, "cpu", True)
    assert supports(u, v, rows, phase) is None
    assert "int64" in supports(u, v, rows.long())
    assert "dtypes" in supports(u.double(), v, rows)
    assert "empty" in supports(u[:0], v, rows)
    assert "65535" in supports(u, v, torch.zeros(70000, 2))
