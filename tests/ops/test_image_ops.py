"""The tests that every op gets, over the calls in `ops.registry`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ops import registry_inr
from ops.conv2d import gradfix
from ops.inr_layer import plain as plain_layer
from ops.inr_layer import reference as defined_layer
from ops.registry import CASES, OpCase
from tests.compare import assert_close_to_ref, assert_grad_close, assert_same_numbers

SMALL = [case for case in CASES if case.small]
IDS = [str(case) for case in SMALL]
BATCH_FIRST = ("bias_act", "grid_sample", "upfirdn2d")

# The definition of conv2d is PyTorch's; its own Functions only run with the switch on.
every_case = pytest.mark.parametrize("case", SMALL, ids=IDS)


@pytest.fixture(autouse=True)
def _own_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradfix, "enabled", True)


def leaves(case: OpCase, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict:
    """Inputs, those with a gradient as leaves."""
    tensors = case.inputs(dtype, seed=seed)
    for name, tensor in tensors.items():
        tensor.requires_grad_(name not in case.constant)
    return tensors


def as_function(case: OpCase, tensors: dict, reference: bool = False) -> tuple[Callable, list]:
    """The op as a function of its differentiable tensors, for gradcheck."""
    op = case.bind(reference)
    constants = {name: tensor for name, tensor in tensors.items() if not tensor.requires_grad}
    names = [name for name in tensors if name not in constants]

    def function(*args: torch.Tensor) -> torch.Tensor:
        return op(**dict(zip(names, args)), **constants)

    return function, [tensors[name] for name in names]


def is_large(args: list[torch.Tensor]) -> bool:
    """Large Jacobians are compared in random directions instead of entry by entry."""
    return sum(arg.numel() for arg in args) > 150


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_values_equal_the_definition(case: OpCase, dtype: torch.dtype) -> None:
    tensors = case.inputs(dtype)
    actual = case.bind()(**tensors)
    assert actual.dtype == dtype
    assert_same_numbers(actual, case.bind(reference=True)(**tensors), 1e-6)


@every_case
@pytest.mark.parametrize("layout", ["sliced", "channels-last", "expanded"])
def test_memory_layout_does_not_matter(case: OpCase, layout: str) -> None:
    tensors = case.inputs()
    changed = {}
    for name, tensor in tensors.items():
        if layout == "sliced" and tensor.ndim:
            larger = torch.full([2 * size + 1 for size in tensor.shape], torch.nan)
            view = larger[tuple(slice(1, None, 2) for _ in tensor.shape)]
            changed[name] = view.copy_(tensor)
        elif layout == "channels-last" and tensor.ndim == 4:
            changed[name] = tensor.contiguous(memory_format=torch.channels_last)
        elif layout == "expanded" and tensor.ndim:
            tensors[name] = tensor[:1].expand_as(tensor).clone()
            changed[name] = tensor[:1].expand_as(tensor)
        else:
            changed[name] = tensor
    before = {name: tensor.clone() for name, tensor in changed.items()}
    assert_same_numbers(case.bind()(**changed), case.bind()(**tensors), 1e-6)
    for name, tensor in changed.items():
        assert torch.equal(tensor, before[name]), f"{name} was overwritten"


@pytest.mark.parametrize(
    "case", [case for case in SMALL if case.op in BATCH_FIRST], ids=lambda case: str(case)
)
def test_an_empty_batch_gives_an_empty_result(case: OpCase) -> None:
    tensors = case.inputs()
    whole = case.bind()(**tensors)
    empty = {name: tensor if name == "b" else tensor[:0] for name, tensor in tensors.items()}
    assert case.bind()(**empty).shape == (0, *whole.shape[1:])


@every_case
def test_first_order(case: OpCase) -> None:
    function, args = as_function(case, leaves(case))
    assert torch.autograd.gradcheck(function, args, fast_mode=is_large(args))


@every_case
def test_second_order(case: OpCase) -> None:
    function, args = as_function(case, leaves(case))
    assert torch.autograd.gradgradcheck(function, args, fast_mode=is_large(args))


@every_case
def test_gradient_penalty_through_two_layers(case: OpCase) -> None:
    """d/d everything of |d sum(softplus(v * op(w * tanh(...)))) / d input|^2, as R1 has it."""
    results = []
    for reference in (False, True):
        tensors = leaves(case)
        function, args = as_function(case, tensors, reference)
        scale = torch.linspace(0.5, 1.5, args[0].shape[-1] if args[0].ndim else 1).double()
        scale.requires_grad_()
        y = function(torch.tanh(args[0] * scale), *args[1:])
        score = torch.nn.functional.softplus(y * torch.cos(y.detach() + 1)).sum()
        (gradient,) = torch.autograd.grad(score, args[0], create_graph=True)
        penalty = gradient.square().sum()
        results.append(torch.autograd.grad(penalty, [scale, *args], allow_unused=True))
    for actual, expected in zip(*results):
        if expected is None:
            assert actual is None or not actual.any()
        else:
            assert_same_numbers(actual, expected, 1e-6, "penalty's gradient")


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_low_precision_is_no_worse_than_the_definition(case: OpCase, dtype: torch.dtype) -> None:
    results = []
    for reference, precision in ((False, dtype), (True, dtype), (True, torch.float64)):
        tensors = {
            name: tensor.to(dtype).to(precision).requires_grad_(name not in case.constant)
            for name, tensor in case.inputs().items()
        }
        function, args = as_function(case, tensors, reference)
        y = function(*args)
        generator = torch.Generator().manual_seed(1)
        v = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype).to(precision)
        results.append([y, *torch.autograd.grad(y, args, v)])
    # One rounding more than a definition that happens to be exact.
    floor = torch.finfo(dtype).eps
    assert_close_to_ref(*(result[0] for result in results), floor=floor)
    for gradients in zip(*(result[1:] for result in results)):
        assert_grad_close(*gradients, floor=2 * floor, cosine=0.99)


@every_case
def test_no_uninitialised_memory_and_the_same_result_twice(
    case: OpCase, poisoned_memory: None
) -> None:
    results = []
    for _ in range(2):
        function, args = as_function(case, leaves(case, torch.float32))
        y = function(*args)
        results.append([y, *torch.autograd.grad(y.square().sum(), args)])
    for first, second in zip(*results):
        assert torch.isfinite(first).all()
        assert torch.equal(first, second)


@every_case
def test_no_gradient_is_no_different(case: OpCase) -> None:
    function, args = as_function(case, leaves(case, torch.float32))
    with torch.no_grad():
        without = function(*args)
    with torch.inference_mode():
        inference = function(*args)
    assert torch.equal(without, inference)
    # What inference mode may have left behind must not reach a training step.
    function(*args).square().sum().backward()
    assert torch.isfinite(args[0].grad).all()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_taps_of_the_calls_are_those_of_upsampling(mode: str) -> None:
    x = torch.randn(1, 2, 5, 7)
    rows, cols = (registry_inr.doubling_taps(n, mode) for n in x.shape[2:])
    options = {} if mode == "nearest" else {"align_corners": False}
    expected = torch.nn.functional.interpolate(x, scale_factor=2, mode=mode, **options)
    outside = 0 if mode == "nearest" else 1
    padded = torch.nn.functional.pad(x, [outside] * 4, mode="replicate")
    for path in (plain_layer, defined_layer):
        assert_same_numbers(path.lattice_upsample(padded, rows, cols), expected)
