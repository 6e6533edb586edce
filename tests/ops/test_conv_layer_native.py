"""The kernel of conv_layer on the CPU equals the definition, and runs where it should."""

from __future__ import annotations

import pytest
import torch

from ops import _dispatch
from ops.conv2d import gradfix, no_weight_gradients
from ops.conv_layer import conv_layer, kernels
from ops.registry import CASES, OpCase
from tests.compare import assert_same_numbers
from tests.ops.native_cases import as_function, leaves, needed_kernel, results

LAYERS = [case for case in CASES if case.op == "conv_layer" and case.small]
TAKEN = [case for case in LAYERS if case.name not in ("smooth", "up")]
every_case = pytest.mark.parametrize("case", TAKEN, ids=str)
CPU = torch.device("cpu")


_needs_the_kernel = needed_kernel("conv_layer")


def test_numbers_worked_out_by_hand() -> None:
    x = torch.tensor([[[[1.0, -2.0], [3.0, 0.5]]]], requires_grad=True)
    w = torch.tensor([[[[2.0]]], [[[-1.0]]]], requires_grad=True)
    b = torch.tensor([0.0, 1.0], requires_grad=True)
    y = conv_layer(x, w, b, act="lrelu", alpha=0.5, gain=2, clamp=7, weight_gain=1, impl="cpp")
    # z = 2x and 1 - x; y = 2 z above 0, z below, at most 7 either way
    assert y.tolist() == [[[[4, -4], [7, 2]], [[0, 6], [-2, 1]]]]
    y.sum().backward()
    # slopes: 2, 1, 0 (clamped), 2 and 1 (at 0), 2, 1, 2
    assert b.grad.tolist() == [5, 6]
    assert x.grad.tolist() == [[[[4 - 1, 2 - 2], [-1, 4 - 2]]]]
    assert w.grad.flatten().tolist() == [2 - 2 + 1, 1 - 4 + 3 + 1]


@every_case
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_values_and_first_gradients(
    case: OpCase,
    threads: int,
    algorithm: str,
    poisoned_memory: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if algorithm == "winograd" and (case.shapes["w"][2] != 3 or "down" in case.options):
        pytest.skip("Winograd's algorithm is for 3x3 kernels with stride 1")
    monkeypatch.setattr(kernels, "algorithm", algorithm)
    torch.set_num_threads(threads)
    for actual, exact in zip(results(case, "cpp"), results(case, "ref", torch.float64)):
        assert_same_numbers(actual.double(), exact, 1e-6)


@every_case
def test_gradients_of_some_inputs_only(case: OpCase) -> None:
    whole = dict(zip(["y", *case.shapes], results(case, "cpp")))
    for name in case.shapes:
        tensors = case.inputs()
        tensors[name].requires_grad_()
        y = case.bind()(**tensors, impl="cpp")
        v = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        y.backward(v.float())
        assert torch.equal(tensors[name].grad, whole[name])


@every_case
@pytest.mark.parametrize("layout", ["sliced", "channels-last"])
def test_layouts(case: OpCase, layout: str) -> None:
    tensors = case.inputs()
    expected = case.bind()(**tensors, impl="cpp")
    for name, tensor in tensors.items():
        larger = tensor.new_full([2 * size + 1 for size in tensor.shape], torch.nan)
        view = larger[tuple(slice(1, None, 2) for _ in tensor.shape)].copy_(tensor)
        last = tensor.ndim == 4 and layout == "channels-last"
        view = tensor.contiguous(memory_format=torch.channels_last) if last else view
        tensors[name] = view.requires_grad_()
    actual = case.bind()(**tensors, impl="cpp")
    assert torch.equal(actual, expected)
    strided = torch.randn(*[2 * size for size in actual.shape])[::2, ::2, ::2, ::2]
    whole = torch.autograd.grad(actual, list(tensors.values()), strided, retain_graph=True)
    dense = torch.autograd.grad(actual, list(tensors.values()), strided.contiguous())
    for one, other in zip(whole, dense):
        assert torch.equal(one, other)


@every_case
def test_a_penalty_needs_second_order(case: OpCase) -> None:
    found = []
    for impl, dtype in (("cpp", torch.float32), ("ref", torch.float64)):
        function, args = as_function(case, leaves(case, CPU, dtype), impl)
        score = torch.nn.functional.softplus(function(torch.tanh(args[0]), *args[1:])).sum()
        with no_weight_gradients():
            (gradient,) = torch.autograd.grad(score, args[0], create_graph=True)
        penalty = gradient.square().sum()
        found.append(torch.autograd.grad(penalty, args, allow_unused=True))
    for actual, exact in zip(*found):
        if exact is None:
            assert actual is None or not actual.any()
        else:
            assert_same_numbers(actual.double(), exact, 2e-6)


@pytest.mark.parametrize("enabled", [False, True])
def test_switched_off_weight_gradients_stay_off(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradfix, "enabled", enabled)
    x, w = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(5, 3, 3, 3, requires_grad=True)
    y = conv_layer(x, w, padding=1, impl="cpp")
    with no_weight_gradients():
        y.sum().backward()
    assert x.grad is not None and w.grad is None


def test_not_a_number_stays_one() -> None:
    x = torch.ones(1, 1, 3, 3)
    x[0, 0, 1, 1] = torch.nan
    y = conv_layer(x, torch.ones(1, 1, 1, 1), act="lrelu", clamp=0.5, impl="cpp")
    assert torch.equal(y.isnan(), x.isnan())


def test_the_kernel_is_the_choice_for_small_layers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    right = kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *args: calls.append(args) or right(*args))
    small = torch.randn(4, 16, 16, 16), torch.randn(16, 16, 3, 3)
    monkeypatch.setattr(gradfix, "enabled", True)  # as in a training
    conv_layer(*small, padding=1)
    assert len(calls) == 1
    conv_layer(torch.randn(1, 256, 4, 4), torch.randn(512, 256, 3, 3), padding=1)
    conv_layer(small[0].double(), small[1].double(), padding=1)
    conv_layer(*small, padding=1, act="swish")
    conv_layer(*small, padding=-1)
    conv_layer(*small, padding=1, up=2, flip_weight=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv_layer(*small, padding=1)
    monkeypatch.setenv(_dispatch.SWITCH, "plain")
    conv_layer(*small, padding=1)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [{"padding": -1}, {"up": 2}, {"act": "swish"}, {"gain": -1}, {"clamp": -1}],
    ids=str,
)
def test_what_the_kernel_does_not_take_is_said(options: dict) -> None:
    with pytest.raises(RuntimeError, match="conv_layer: impl='cpp' cannot run"):
        conv_layer(torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3), impl="cpp", **options)


def test_wrong_shapes_are_the_ops_own_errors() -> None:
    x, w = torch.ones(2, 3, 4, 4), torch.ones(5, 4, 3, 3)
    with pytest.raises(ValueError, match=r"w must be \[O, 3 / groups, kh, kw\]"):
        conv_layer(x, w)
    with pytest.raises(ValueError, match=r"b must have shape \[5\], got \[6\]"):
        conv_layer(x, w[:, :3], torch.ones(6))
    with pytest.raises(ValueError, match="act must be one of"):
        conv_layer(x, w[:, :3], act="leaky")
