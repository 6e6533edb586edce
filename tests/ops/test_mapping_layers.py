"""`ops.mapping_layers`: the kernel equals the composition of `affine` and `bias_act`."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.mapping_layers import mapping_layers, normalize_2nd_moment
from ops.registry import CASES, OpCase, mapping_case
from tests.compare import assert_same_numbers
from tests.ops.native_cases import (
    as_function,
    assert_saved_tensors_may_lie_otherwise,
    leaves,
    needed_kernel,
    results,
)

CPU = torch.device("cpu")
CALLS = [case for case in CASES if case.op == "mapping_layers" and case.small]
# More images than a vector holds, rows beyond a task's, labels as wide as several vectors.
MORE = [
    mapping_case("images", 19, 33, 0, 0, [50, 20]),
    mapping_case("rows", 2, 7, 40, 3, [101, 64, 1]),
    mapping_case("linear", 17, 16, 5, 16, [48], "linear"),
]
every_call = pytest.mark.parametrize("case", [*CALLS, *MORE], ids=str)


_needs_the_kernel = needed_kernel("mapping_layers")


def test_numbers_worked_out_by_hand() -> None:
    z, c = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    # 2 / sqrt(4) - 3 = -2, normalised -1
    embed = torch.tensor([[2.0, 9.0, 9.0, 9.0]]), torch.tensor([-3.0])
    # Gain 0.5 / sqrt(3); z is normalised by sqrt(12.5).
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]) * math.sqrt(3)
    layers = [(weight, torch.tensor([0.0, 1.0]))]
    w = mapping_layers(z, c, embed, layers, "lrelu", 0.5, "cpp")
    # -0.5 of the second: 0.5 (2 (-1) + 1), slope 0.2
    expected = math.sqrt(2) * torch.tensor([[0.5 * 3 / math.sqrt(12.5), -0.1]])
    torch.testing.assert_close(w, expected)


@every_call
@pytest.mark.parametrize("threads", [1, 3])
def test_values_and_first_gradients(case: OpCase, threads: int, poisoned_memory: None) -> None:
    torch.set_num_threads(threads)
    expected = results(case, "ref", torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        for actual, exact in zip(results(case, "cpp", dtype), expected, strict=True):
            assert actual.dtype == dtype
            assert_same_numbers(actual.double(), exact, tolerance)


@pytest.mark.parametrize("case", CALLS, ids=str)
def test_derivatives_of_first_and_second_order(case: OpCase) -> None:
    function, args = as_function(case, leaves(case, CPU), "cpp")
    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)


@pytest.mark.parametrize("wanted", ["z", "embed", "embed_bias", "weight1", "bias0"])
def test_single_gradients(wanted: str, poisoned_memory: None) -> None:
    case = CALLS[2]
    names = [name for name in case.shapes if name not in case.constant]
    whole = dict(zip(["y", *names], results(case, "cpp", torch.float64)))
    tensors = case.inputs(torch.float64)
    tensors[wanted].requires_grad_()
    y = case.bind()(**tensors, impl="cpp")
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(y, tensors[wanted], v)
    assert torch.equal(gradient, whole[wanted])


def test_the_number_of_threads_does_not_matter() -> None:
    first, second = [], []
    case = mapping_case("large", 20, 128, 6, 64, [160, 128])
    for threads, found in ((1, first), (3, second)):
        torch.set_num_threads(threads)
        found += results(case, "cpp", torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 20), other=st.integers(0, 17), factor=st.floats(0.1, 100))
def test_an_image_depends_on_the_direction_of_its_latent_only(
    n: int, other: int, factor: float
) -> None:
    case = mapping_case("any", n + other, 5, 3, 4, [6, 7])
    tensors = case.inputs()
    whole = case.bind()(**tensors, impl="cpp")
    part = {name: t[other:] if name in ("z", "c") else t for name, t in tensors.items()}
    part["z"] = part["z"] * factor
    torch.testing.assert_close(case.bind()(**part, impl="cpp"), whole[other:], rtol=1e-4, atol=1e-4)


def test_non_contiguous_inputs() -> None:
    case = CALLS[2]
    tensors = case.inputs()
    expected = case.bind()(**tensors, impl="cpp")
    turned = {name: t.t().contiguous().t() if t.ndim == 2 else t for name, t in tensors.items()}
    assert torch.equal(case.bind()(**turned, impl="cpp"), expected)


def test_what_the_kernel_does_not_take_is_composed() -> None:
    for case, reason in (
        (mapping_case("many", 129, 3, 0, 0, [2]), "it takes batches of up to 128"),
        (mapping_case("relu", 2, 3, 0, 0, [2], "relu"), "it knows the activations linear, lrelu"),
    ):
        tensors = case.inputs()
        with pytest.raises(RuntimeError, match=reason):
            case.bind()(**tensors, impl="cpp")
        assert_same_numbers(case.bind()(**tensors), case.bind()(**tensors, impl="ref"), 1e-5)
    tensors = CALLS[1].inputs()
    tensors["c"].requires_grad_()
    with pytest.raises(RuntimeError, match="it has no gradient of labels"):
        CALLS[1].bind()(**tensors, impl="cpp")
    CALLS[1].bind()(**tensors).sum().backward()
    assert tensors["c"].grad.abs().max() > 0


def test_messages() -> None:
    z, one = torch.ones(2, 3), torch.ones(1)
    with pytest.raises(ValueError, match="needs latents z, labels c, or both"):
        mapping_layers(None, None, None, [])
    with pytest.raises(ValueError, match="labels c and their embedding go together"):
        mapping_layers(z, z, None, [])
    with pytest.raises(ValueError, match="the same batch size, not 2 and 1"):
        mapping_layers(z, z[:1], (torch.ones(1, 3), one), [])
    with pytest.raises(ValueError, match=r"an embedding \[1, 4\], \[1\] of labels \[2, 3\]"):
        mapping_layers(z, z, (torch.ones(1, 4), one), [])
    with pytest.raises(ValueError, match=r"layer 1 of 1 features has the weight \[1, 3\]"):
        mapping_layers(z, None, None, [(torch.ones(1, 3), one), (torch.ones(1, 3), one)])


def test_normalize_2nd_moment() -> None:
    x = torch.randn(5, 7, 3)
    for dim in (1, 2):
        y = normalize_2nd_moment(x, dim=dim)
        torch.testing.assert_close(y.square().mean(dim=dim), torch.ones(y.select(dim, 0).shape))
        torch.testing.assert_close(y / y.norm(dim=dim, keepdim=True), F.normalize(x, dim=dim))
    assert normalize_2nd_moment(torch.zeros(2, 4)).abs().max() == 0


def test_the_learning_rate_is_a_number_whatever_holds_it() -> None:
    z, weight, bias = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5)
    rate = torch.tensor(0.5)
    results = []
    for value in (0.5, 1.0):
        rate.fill_(value)
        results.append(mapping_layers(z, None, None, [(weight, bias)], lr_multiplier=rate))
    assert_same_numbers(2 * results[0], results[1], 1e-6)


@pytest.mark.parametrize("case", CALLS, ids=str)
def test_saved_tensors_may_lie_otherwise(case: OpCase) -> None:
    assert_saved_tensors_may_lie_otherwise(case)
