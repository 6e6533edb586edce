"""`ops.inr_weights`: the kernel equals the composition of `affine` and `fmm`, to second order."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.fmm import FMM_ACTIVATIONS
from ops.inr_weights import inr_weights
from ops.registry import CASES, OpCase
from ops.registry_inr import weights_call
from tests.compare import assert_same_numbers
from tests.ops.native_cases import (
    as_function,
    assert_saved_tensors_may_lie_otherwise,
    leaves,
    needed_kernel,
    results,
)

CPU = torch.device("cpu")
CALLS = [case for case in CASES if case.op == "inr_weights" and case.small]


def _call(
    n: int, width: int, sizes: tuple, rank: int, colours: int, activation: str, predicted: int = 0
) -> OpCase:
    name = f"{n}-{width}-{sizes}-{rank}"
    return OpCase(*weights_call(name, n, width, sizes, rank, colours, activation, predicted)[:4])


# More images than a vector holds, rows beyond a task's, parts of the batch, single values,
# something predicted, gradients that are written past the caches.
MORE = [
    _call(9, 32, ((70, 5), (3, 70)), 2, 2, "demod"),
    _call(17, 64, ((20, 33), (20, 20), (20, 20), (19, 20)), 10, 3, "tanh"),
    _call(2, 96, ((140, 3),), 3, 1, "sigmoid"),
    _call(7, 32, ((20, 4), (3, 20)), 2, 3, "demod", 401),
    _call(2, 512, ((207, 204),), 10, 1, "demod"),
    _call(1, 32, ((1, 1),), 1, 1, "none"),
]
every_call = pytest.mark.parametrize("case", [*CALLS, *MORE], ids=str)


_needs_the_kernel = needed_kernel("inr_weights")


def test_numbers_worked_out_by_hand() -> None:
    ws = torch.zeros(1, 2, 32)
    ws[0, 0, 0], ws[0, 1, 1] = 2.0, 3.0
    # a = 1 and b = (1, -2 + w_0): the gain is 1 / sqrt(32).
    matrix = torch.zeros(3, 32)
    matrix[2, 0] = 32**0.5
    affine = matrix, torch.tensor([1.0, 1.0, -2.0])
    rgb_matrix = torch.zeros(1, 32)
    rgb_matrix[0, 1] = 32**0.5
    predict = matrix[2:] * 2, torch.tensor([1.0])
    (weight,), rgb, predicted = inr_weights(
        ws, [torch.tensor([[3.0, 5.0]])], [affine], torch.tensor([[1.0], [2.0]]),
        (rgb_matrix, torch.tensor([0.5])), "none", predict, "cpp",
    )  # fmt: skip
    # 3 (1 + 1) and 5 (1 + (-2 + 2)); (0.5 + 3) times 1 and 2
    torch.testing.assert_close(weight, torch.tensor([[[6.0, 5.0]]]))
    torch.testing.assert_close(rgb, torch.tensor([[[3.5], [7.0]]]))
    # 2 w_0 + 1
    torch.testing.assert_close(predicted, torch.tensor([[5.0]]))


@every_call
@pytest.mark.parametrize("threads", [1, 3])
def test_values_and_first_gradients(case: OpCase, threads: int, poisoned_memory: None) -> None:
    torch.set_num_threads(threads)
    expected = results(case, "ref", torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        for actual, exact in zip(results(case, "cpp", dtype), expected, strict=True):
            assert actual.dtype == dtype
            assert_same_numbers(actual.double(), exact, tolerance)


@pytest.mark.parametrize("case", CALLS, ids=str)
def test_derivatives_of_first_and_second_order(case: OpCase) -> None:
    function, args = as_function(case, leaves(case, CPU), "cpp")
    assert torch.autograd.gradcheck(function, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, args, fast_mode=True)


WANTED = ["ws", "weight1", "affine0", "affine_bias1", "rgb", "rgb_bias", "predict"]


@pytest.mark.parametrize("wanted", WANTED)
def test_single_gradients(wanted: str, poisoned_memory: None) -> None:
    case = MORE[3]
    whole = dict(zip(["y", *case.shapes], results(case, "cpp", torch.float64)))
    tensors = case.inputs(torch.float64)
    tensors[wanted].requires_grad_()
    y = case.bind()(**tensors, impl="cpp")
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(y, tensors[wanted], v)
    assert torch.equal(gradient, whole[wanted])


def test_the_number_of_threads_does_not_matter() -> None:
    first, second = [], []
    for threads, found in ((1, first), (3, second)):
        torch.set_num_threads(threads)
        found += results(MORE[1], "cpp", torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 4), other=st.integers(0, 3), activation=st.sampled_from([*FMM_ACTIVATIONS]))
def test_an_image_does_not_depend_on_the_others(n: int, other: int, activation: str) -> None:
    case = _call(n + other, 32, ((4, 3), (5, 4)), 2, 3, activation)
    tensors = case.inputs()
    op = functools.partial(case.bind(), impl="cpp")
    whole = op(**tensors)
    part = op(**{**tensors, "ws": tensors["ws"][other:]})
    torch.testing.assert_close(part, whole[other:], rtol=1e-6, atol=1e-6)


def test_strided_and_non_contiguous_ws() -> None:
    case = CALLS[1]
    tensors = case.inputs()
    op = functools.partial(case.bind(), impl="cpp")
    expected = op(**tensors)
    ws = tensors["ws"]
    strided = torch.cat([ws, ws], 1)[:, : ws.shape[1]]
    assert torch.equal(op(**{**tensors, "ws": strided}), expected)
    transposed = ws.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(op(**{**tensors, "ws": transposed}), expected)


def test_what_the_kernel_does_not_take_is_composed() -> None:
    for case, reason in (
        (_call(2, 33, ((3, 2),), 2, 1, "demod"), "33 values of w are no multiple of 32"),
        (_call(2, 32, ((3, 3),) * 5, 2, 1, "demod"), "it takes up to 4 layers"),
    ):
        tensors = case.inputs()
        with pytest.raises(RuntimeError, match=reason):
            case.bind()(**tensors, impl="cpp")
        assert_same_numbers(case.bind()(**tensors), case.bind()(**tensors, impl="ref"), 1e-5)


def test_messages() -> None:
    w, one = torch.zeros(2, 2, 32), torch.ones(1, 1)
    affine, rgb = (torch.ones(2, 32), torch.ones(2)), (torch.ones(1, 32), torch.ones(1))
    assert inr_weights(w, [one], [affine], one, rgb)[1].shape == (2, 1, 1)
    with pytest.raises(ValueError, match=r"one w per layer .* got \[2, 2, 32\] for 2 layers"):
        inr_weights(w, [one, one], [affine, affine], one, rgb)
    with pytest.raises(ValueError, match="fmm activation must be one of demod, .* got 'relu'"):
        inr_weights(w, [one], [affine], one, rgb, "relu")
    with pytest.raises(ValueError, match=r"an affine map \[2, 32\], \[2\] of w \[32\] does not"):
        inr_weights(w, [torch.ones(2, 1)], [affine], one, rgb)
    with pytest.raises(ValueError, match=r"predicted from w \[32\] needs \[R, 32\] and \[R\], got"):
        inr_weights(w, [one], [affine], one, rgb, predict=(torch.ones(2, 31), torch.ones(2)))
    with pytest.raises(ValueError, match=r"to-RGB of 1 channels and w \[32\] needs \[C, 1\]"):
        inr_weights(w, [one], [affine], torch.ones(3, 2), rgb)


@pytest.mark.parametrize("case", CALLS, ids=str)
def test_saved_tensors_may_lie_otherwise(case: OpCase) -> None:
    assert_saved_tensors_may_lie_otherwise(case)
