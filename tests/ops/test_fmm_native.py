"""The kernels of fmm equal the definition: C++, CUDA emulated on the CPU, CUDA on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ops.fmm import FMM_ACTIVATIONS, fmm, kernels, reference
from tests.compare import assert_close_to_ref, assert_grad_close, assert_same_numbers
from tests.ops.emulated import emulated_op
from tests.ops.native_cases import backend_fixture

pytestmark = pytest.mark.usefixtures("poisoned_memory")
backend = backend_fixture("fmm")

ACTIVATIONS = list(FMM_ACTIVATIONS)
# n, rows, columns, rank: single, odd, whole vectors, one more than a tile, several chunks.
SHAPES = [(1, 1, 1, 1), (2, 7, 5, 3), (3, 20, 48, 10), (2, 65, 33, 16), (1, 3, 261, 32)]
# One more span of columns than a block of the tensor core kernel keeps.
LONG = (1, 3, 545, 10)


def make_inputs(shape, dtype, device="cpu", grad: bool = False) -> list[Tensor]:
    """weight, a, b; the factors are views of one tensor, as an affine layer makes them."""
    n, rows, columns, rank = shape
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    factors = torch.randn(n, (rows + columns) * rank, generator=generator, dtype=torch.float64)
    weight, factors = weight.to(device, dtype), factors.to(device, dtype)
    a, b = factors.split([rows * rank, columns * rank], dim=1)
    inputs = [weight, a.unflatten(1, (rows, rank)), b.unflatten(1, (rank, columns))]
    return [tensor.requires_grad_() for tensor in inputs] if grad else inputs


def make_grad(shape, dtype, device="cpu") -> Tensor:
    n, rows, columns, _rank = shape
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(n, rows, columns, generator=generator, dtype=torch.float64)
    return grad.to(device, dtype)


def converted(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_equal_the_definition(backend, shape, activation):
    inputs = make_inputs(shape, torch.float32, backend.device, grad=True)
    grad = make_grad(shape, torch.float32, backend.device)
    out = fmm(*inputs, activation, backend.impl)
    exact_inputs = converted(inputs, torch.float64)
    exact = reference.fmm(*exact_inputs, activation)
    assert out.dtype == torch.float32 and out.is_contiguous()
    assert_same_numbers(out, exact.float(), 1e-6)
    if shape[2] == 1 and activation == "demod":
        return  # the gradient of w / |w| is zero but for rounding
    expected = torch.autograd.grad(exact, exact_inputs, grad.double())
    for name, actual, wanted in zip(
        ("weight", "a", "b"), torch.autograd.grad(out, inputs, grad), expected
    ):
        assert_same_numbers(actual, wanted.float(), 5e-6, name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_order(backend, activation):
    inputs = make_inputs((2, 3, 5, 2), torch.float64, backend.device, grad=True)
    call = lambda *args: fmm(*args, activation, backend.impl)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("shape", [(3, 20, 48, 10), (2, 33, 21, 17), LONG], ids=str)
@pytest.mark.parametrize("activation", ["demod", "tanh"])
@pytest.mark.parametrize("inputs_in_float32", [False, True], ids=["same", "from-float32"])
def test_low_precision(backend, shape, activation, inputs_in_float32):
    for low in backend.half_types():
        dtype = torch.float32 if inputs_in_float32 else low
        inputs = make_inputs(shape, dtype, backend.device, grad=True)
        grad = make_grad(shape, low, backend.device)
        results = []
        for call, precision in ((fmm, dtype), (reference.fmm, dtype), (None, torch.float64)):
            args = converted(inputs, precision)
            if call is None:
                out = reference.fmm(*args, activation)
            else:
                impl = {"impl": backend.impl} if call is fmm else {}
                out = call(*args, activation, out_dtype=low, **impl)
            results.append([out, *torch.autograd.grad(out, args, grad.to(out.dtype))])
        assert results[0][0].dtype == low
        assert all(gradient.dtype == dtype for gradient in results[0][1:])
        assert_close_to_ref(*(result[0] for result in results))
        for gradients in zip(*(result[1:] for result in results)):
            assert_grad_close(*gradients, floor=1e-5)


def test_results_of_half_types_without_tensor_cores(backend):
    if backend.name == "cpp":
        pytest.skip("the C++ kernel has one way")
    for low in backend.half_types():
        inputs = make_inputs((2, 18, 261, 10), torch.float32, backend.device)
        exact = reference.fmm(*[tensor.double() for tensor in inputs])
        for cores in (0, 1):
            out = kernels.forward(*inputs, "demod", low, backend.impl, cores)
            assert_close_to_ref(out, exact.to(low), exact, ratio=1.05)


def test_float32_products_of_tensor_cores_keep_sixteen_bits(backend):
    """Against a weight of one, so that every error of M shows, in bfloat16's own grid of W - 1."""
    shape = (1, 16, 64, 32)
    _weight, a, b = make_inputs(shape, torch.float32, backend.device)
    weight = torch.ones(16, 64, device=backend.device)
    exact = reference.fmm(weight.double(), a.double(), b.double(), "identity")
    out = fmm(weight, a, b, "identity", backend.impl, out_dtype=torch.bfloat16)
    # Rounding to nearest: at most half a unit of bfloat16, plus 2^-14 of the products' size.
    slack = 2**-14 * torch.bmm(a.double().abs(), b.double().abs())
    assert ((out.double() - exact).abs() <= 2**-8 * exact.abs() + slack).all()


def test_float16_result_from_float32(backend):
    inputs = make_inputs((2, 9, 17, 3), torch.float32, backend.device, grad=True)
    out = fmm(*inputs, "demod", backend.impl, out_dtype=torch.float16)
    exact = reference.fmm(*[tensor.double() for tensor in inputs])
    assert out.dtype == torch.float16
    assert_close_to_ref(out, exact.half(), exact, ratio=1.2)
    out.float().square().sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in inputs)


@pytest.mark.parametrize("layout", ["sliced", "transposed", "expanded"])
def test_memory_layout_does_not_matter(backend, layout):
    def arranged(tensor: Tensor) -> Tensor:
        if layout == "sliced":
            larger = torch.full([2 * size + 1 for size in tensor.shape], torch.nan)
            view = larger.to(tensor)[tuple(slice(1, None, 2) for _ in tensor.shape)]
            return view.copy_(tensor)
        if layout == "transposed":
            return tensor.mT.contiguous().mT
        return tensor[:1].expand_as(tensor)

    inputs = [t.contiguous() for t in make_inputs((2, 6, 40, 4), torch.float32, backend.device)]
    grad = make_grad((2, 6, 40, 4), torch.float32, backend.device)
    results = []
    for change in (arranged, lambda tensor: arranged(tensor).contiguous()):
        args = [change(tensor).detach().requires_grad_() for tensor in inputs]
        out = fmm(*args, "demod", backend.impl)
        results.append([out, *torch.autograd.grad(out, args, change(grad))])
    for actual, expected in zip(*results):
        assert torch.equal(actual, expected)


def test_only_the_gradients_asked_for(backend):
    inputs = make_inputs((2, 20, 24, 3), torch.float32, backend.device)
    grad = make_grad((2, 20, 24, 3), torch.float32, backend.device)
    every = kernels.backward(grad, *inputs, "demod", [True] * 3, backend.impl)
    for k in range(3):
        wanted = [k == index for index in range(3)]
        (gradient,) = kernels.backward(grad, *inputs, "demod", wanted, backend.impl)
        assert torch.equal(gradient, every[k])
    args = [inputs[0].clone().requires_grad_(), *inputs[1:]]
    fmm(*args, "demod", backend.impl).backward(grad)
    assert torch.equal(args[0].grad, every[0])


def test_no_graph_where_no_gradient_is_wanted(backend):
    inputs = make_inputs((2, 6, 8, 3), torch.float32, backend.device, grad=True)
    with torch.no_grad():
        assert fmm(*inputs, "demod", backend.impl).grad_fn is None
    recorded = fmm(*inputs, "demod", backend.impl)
    with torch.inference_mode():
        inference = fmm(*inputs, "demod", backend.impl)
    assert torch.equal(recorded, inference) and recorded.grad_fn is not None


def test_the_same_sums_whatever_the_threads_and_again(backend):
    shape = (3, 70, 40, 10)
    inputs = make_inputs(shape, torch.float32, backend.device)
    grad = make_grad(shape, torch.float32, backend.device)
    results = []
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            out = kernels.forward(*inputs, "demod", torch.float32, backend.impl)
            every = kernels.backward(grad, *inputs, "demod", [True] * 3, backend.impl)
            results.append([out, *every])
    finally:
        torch.set_num_threads(1)
    for first, second, third in zip(*results):
        assert torch.equal(first, second) and torch.equal(first, third)


def test_splits_of_the_batch_only_change_the_order_of_sums(backend):
    shape = (5, 9, 20, 3)
    inputs = make_inputs(shape, torch.float32, backend.device)
    grad = make_grad(shape, torch.float32, backend.device)
    whole = kernels.backward(grad, *inputs, "demod", [True] * 3, backend.impl, 1)
    parts = kernels.backward(grad, *inputs, "demod", [True] * 3, backend.impl, 3)
    assert_same_numbers(parts[0], whole[0], 1e-6)
    assert torch.equal(parts[1], whole[1]) and torch.equal(parts[2], whole[2])
    assert kernels.choose_splits(32, 512) == 8 and kernels.choose_splits(2, 512) == 1


def test_a_row_of_zeros_has_finite_gradients(backend):
    inputs = make_inputs((2, 5, 12, 3), torch.float32, backend.device)
    inputs[0][2] = 0
    args = [tensor.detach().requires_grad_() for tensor in inputs]
    out = fmm(*args, "demod", backend.impl)
    assert not out[:, 2].any()
    for gradient in torch.autograd.grad(out.square().sum(), args):
        assert torch.isfinite(gradient).all()


def test_gradient_penalty_through_two_layers(backend):
    """As R1 has it: the gradient of |d score / d input|^2 with respect to everything."""
    results = []
    for impl in (backend.impl, "ref"):
        inputs = make_inputs((2, 8, 8, 3), torch.float64, backend.device, grad=True)
        x = torch.linspace(-1, 1, 2 * 8 * 5, dtype=torch.float64, device=backend.device)
        x = x.reshape(2, 8, 5).requires_grad_()
        weight = fmm(*inputs, "demod", impl)
        score = torch.bmm(weight, torch.tanh(torch.bmm(weight, x))).exp().sum()
        gradients = torch.autograd.grad(score, [x, inputs[1]], create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        results.append(torch.autograd.grad(penalty, [x, *inputs]))
    for actual, expected in zip(*results):
        assert_same_numbers(actual, expected, 1e-9)


def test_an_empty_batch_is_plain(backend):
    weight, a, b = make_inputs((2, 5, 12, 3), torch.float32, backend.device)
    weight.requires_grad_()
    out = fmm(weight, a[:0], b[:0])
    assert out.shape == (0, 5, 12)
    out.sum().backward()
    assert not weight.grad.any()


@pytest.mark.parametrize("order", ["descending", "random"])
def test_the_order_of_threads_does_not_matter(order):
    inputs = make_inputs((2, 18, 36, 10), torch.float32)
    grad = make_grad((2, 18, 36, 10), torch.float32)
    results = []
    for chosen in ("ascending", order):
        with emulated_op("fmm", order=chosen):
            dtypes = (torch.bfloat16, torch.float32)
            results.append([kernels.forward(*inputs, "demod", dtype, "cpp") for dtype in dtypes])
            results[-1] += kernels.backward(grad, *inputs, "demod", [True] * 3, "cpp", 2)
    for first, second in zip(*results):
        assert torch.equal(first, second)


def test_registered_operators(backend):
    """What `torch.compile` needs: schemas and fake kernels that tell the truth."""
    inputs = make_inputs((2, 6, 8, 3), torch.float32, backend.device)
    grad = make_grad((2, 6, 8, 3), torch.float32, backend.device)
    arguments = (*inputs, "demod", torch.bfloat16, backend.impl)
    torch.library.opcheck(kernels.forward.operator, arguments)
    arguments = (grad, *inputs, "demod", [True, False, True], backend.impl)
    torch.library.opcheck(kernels.backward.operator, arguments)


def test_compiled_without_a_break(backend):
    inputs = make_inputs((2, 6, 8, 3), torch.float32, backend.device, grad=True)

    def layer(*args: Tensor) -> Tensor:
        return fmm(*args, "demod", backend.impl).square().sum()

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for function in (layer, compiled):
        value = function(*inputs)
        results.append([value, *torch.autograd.grad(value, inputs)])
    for actual, expected in zip(*results):
        assert_same_numbers(actual, expected, 1e-6)
