"""Winograd's algorithm for 3x3 convolutions on the CPU equals the direct one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F

from ops.conv2d import conv2d, conv_transpose2d, no_weight_gradients, winograd
from tests.compare import assert_same_numbers, relative_rms_error
from tests.ops.native_cases import skip_without_kernel

# (N, I, H, W), O, padding: whole tiles, odd sizes, channels beside the blocks of 8 and 16.
SHAPES = [
    ((2, 16, 32, 32), 32, 1),
    ((3, 17, 29, 31), 35, 1),
    ((8, 65, 4, 4), 129, 1),
    ((1, 9, 61, 47), 11, 0),
    ((1, 40, 30, 18), 33, (2, 0)),
    ((33, 16, 8, 8), 24, 1),
]
every_shape = pytest.mark.parametrize(("shape", "outputs", "padding"), SHAPES)


@pytest.fixture(autouse=True)
def _needs_the_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Skips without a compiler; new memory is NaN; every convolution counts as large."""
    skip_without_kernel("conv2d")
    monkeypatch.setattr(winograd, "_MIN_PRODUCTS", 1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(shape: tuple, outputs: int, transposed: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = (shape[1], outputs, 3, 3) if transposed else (outputs, shape[1], 3, 3)
    return [torch.randn(size, generator=generator) for size in (shape, weight, (outputs,))]


def as_leaves(tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    return [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the algorithm's steps as they run."""
    calls: list[str] = []
    for name in ("convolve", "weight_gradient"):
        monkeypatch.setattr(winograd, name, _counting(getattr(winograd, name), calls))
    return calls


def _counting(function: Callable, calls: list[str]) -> Callable:
    def call(*args):
        calls.append(function.__name__)
        return function(*args)

    return call


def test_the_algorithm_on_numbers_worked_out_by_hand() -> None:
    x = torch.zeros(1, 8, 4, 4)
    x[0, 0] = torch.arange(16.0).view(4, 4)
    w = torch.zeros(8, 8, 3, 3)
    w[3, 0] = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 100]])
    y = winograd.convolve(x, w, [1, 1])
    expected = torch.zeros(4, 4)
    expected[1:] += x[0, 0, :-1]
    expected[:-1, :-1] += 100 * x[0, 0, 1:, 1:]
    assert torch.allclose(y[0, 3], expected, rtol=1e-5, atol=1e-3)
    assert y[0, [0, 1, 2, 4, 5, 6, 7]].abs().max() < 1e-3


@every_shape
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
def test_values_and_first_gradients(
    monkeypatch: pytest.MonkeyPatch, shape: tuple, outputs: int, padding, transposed: bool
) -> None:
    calls = counted(monkeypatch)
    own, plain = (conv_transpose2d, F.conv_transpose2d) if transposed else (conv2d, F.conv2d)
    if transposed:
        monkeypatch.setattr("ops.conv2d.gradfix.enabled", True)
    tensors = inputs(shape, outputs, transposed)
    results = []
    for function, dtype in ((own, torch.float32), (plain, torch.float32), (plain, torch.float64)):
        args = as_leaves(tensors, dtype)
        y = function(*args, padding=padding)
        v = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        results.append([y, *torch.autograd.grad(y, args, v.to(dtype))])
    assert calls == ["convolve", "convolve", "weight_gradient"]
    for actual, direct, exact in zip(*results):
        allowed = max(2e-6, 4 * relative_rms_error(direct, exact))
        assert_same_numbers(actual.double(), exact, allowed)


@pytest.mark.parametrize(("shape", "outputs", "padding"), SHAPES[:3])
def test_a_penalty_needs_second_order(
    monkeypatch: pytest.MonkeyPatch, shape: tuple, outputs: int, padding
) -> None:
    calls = counted(monkeypatch)
    tensors = inputs(shape, outputs)
    results = []
    variants = (conv2d, torch.float32), (F.conv2d, torch.float32), (F.conv2d, torch.float64)
    for function, dtype in variants:
        x, w, b = as_leaves(tensors, dtype)
        y = function(x, w, b, padding=padding)
        with no_weight_gradients():
            (gradient,) = torch.autograd.grad(F.softplus(y).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), [x, w, b]))
    assert calls.count("weight_gradient") == 2
    for actual, direct, exact in zip(*results):
        allowed = max(2e-6, 5 * relative_rms_error(direct, exact))
        assert_same_numbers(actual.double(), exact, allowed)


def test_layouts_and_inference_mode() -> None:
    x, w, b = inputs((2, 16, 19, 21), 24)
    expected = F.conv2d(x, w, b, padding=1)
    larger = torch.full((2, 33, 39, 43), torch.nan)
    sliced = larger[:, 1::2, 1::2, 1::2].copy_(x)
    for view in (sliced, x.contiguous(memory_format=torch.channels_last)):
        assert_same_numbers(conv2d(view, w, b, padding=1), expected, 2e-6)
    with torch.inference_mode():
        assert_same_numbers(conv2d(x, w, b, padding=1), expected, 2e-6)
    x.requires_grad_()
    conv2d(x, w.requires_grad_(), b, padding=1).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(w.grad).all()


def test_same_numbers_twice_and_for_every_image_of_a_batch() -> None:
    x, w, _ = inputs((9, 16, 24, 24), 16)
    whole = winograd.convolve(x, w, [1, 1])
    assert torch.equal(whole, winograd.convolve(x, w, [1, 1]))
    for n in range(len(x)):
        assert_same_numbers(winograd.convolve(x[n : n + 1], w, [1, 1]), whole[n : n + 1], 1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": [2, 2]},
        {"dilation": [2, 2]},
        {"groups": 2},
        {"padding": [3, 1]},
        {"x": torch.zeros(2, 16, 32, 32, dtype=torch.float64)},
        {"x": torch.zeros(2, 16, 5, 5)},
        {"weight": torch.zeros(16, 16, 1, 1)},
        {"weight": torch.zeros(4, 16, 3, 3)},
    ],
    ids=str,
)
def test_other_convolutions_stay_direct(change: dict) -> None:
    arguments = {
        "x": torch.zeros(2, 16, 32, 32),
        "weight": torch.zeros(16, 16, 3, 3),
        "stride": [1, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": 1,
    }
    assert winograd.suits(**arguments)
    assert not winograd.suits(**(arguments | change))


def test_small_convolutions_stay_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = torch.zeros(1, 16, 8, 8), torch.zeros(16, 16, 3, 3), [1, 1], [1, 1], [1, 1], 1
    assert winograd.suits(*arguments)
    monkeypatch.undo()
    assert not winograd.suits(*arguments)
