"""fmm: definition, golden numbers, gradients of first and second order, low precision."""

from __future__ import annotations

import math

import pytest
import torch

from ops.fmm import FMM_ACTIVATIONS, fmm
from tests.golden_files import load

ACTIVATIONS = list(FMM_ACTIVATIONS)
PUBLISHED_NAMES = {
    "demod": "demod",
    "tanh": "tanh",
    "sigmoid": "half-sigmoid",
    "none": "none",
}


def make_inputs(n=2, out=5, inp=3, rank=2, dtype=torch.float64, grad=False):
    shapes = ([out, inp], [n, out, rank], [n, rank, inp])
    return [torch.randn(shape, dtype=dtype, requires_grad=grad) for shape in shapes]


def test_hand_computed_case():
    weight = torch.tensor([[3.0, 4.0]])
    a, b = torch.zeros(1, 1, 1), torch.ones(1, 1, 2)
    # M = 0: g = 1 (demod, tanh, none, sigmoid), 1/2 + 1/2 = 1 (half-sigmoid), 0 (identity).
    expected = {name: [[[3.0, 4.0]]] for name in ACTIVATIONS}
    expected["demod"] = [[[0.6, 0.8]]]
    expected["identity"] = [[[0.0, 0.0]]]
    for name in ACTIVATIONS:
        torch.testing.assert_close(fmm(weight, a, b, name), torch.tensor(expected[name]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n,out,inp,rank", [(1, 1, 1, 1), (2, 7, 5, 3), (3, 64, 33, 10)])
def test_equals_the_formula(activation, n, out, inp, rank):
    weight, a, b = make_inputs(n, out, inp, rank)
    scale = 1 if activation in ("sigmoid", "identity") else 1 / math.sqrt(rank)
    m = scale * torch.einsum("nor,nri->noi", a, b)
    g = {
        "demod": 1 + m,
        "tanh": 1 + m.tanh(),
        "half-sigmoid": 0.5 + m.sigmoid(),
        "none": 1 + m,
        "sigmoid": 2 * m.sigmoid(),
        "identity": m,
    }[activation]
    expected = weight * g
    if activation == "demod":
        expected = expected / (expected.square().sum(2, keepdim=True).sqrt() + 1e-8)
    torch.testing.assert_close(fmm(weight, a, b, activation), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("published", list(PUBLISHED_NAMES))
def test_golden(published):
    golden = {
        name.split("/")[1]: torch.from_numpy(value)
        for name, value in load("fmm_rank3").items()
        if name.startswith(f"{published}/")
    }
    x, w, s = (golden[name].clone().requires_grad_() for name in ("x", "w", "s"))
    out, inp = w.shape[:2]
    a, b = s.split([out * 3, inp * 3], dim=1)
    weight = fmm(
        w[:, :, 0, 0],
        a.unflatten(1, (out, 3)),
        b.unflatten(1, (3, inp)),
        PUBLISHED_NAMES[published],
    )
    y = torch.einsum("noi,nihw->nohw", weight, x)
    torch.testing.assert_close(y, golden["y"], rtol=1e-5, atol=1e-9)
    grads = torch.autograd.grad(y, [x, w, s], golden["v"])
    for name, grad in zip(("gx", "gw", "gs"), grads):
        torch.testing.assert_close(grad, golden[name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_gradients(activation):
    inputs = make_inputs(grad=True)
    call = lambda *args: fmm(*args, activation)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bfloat16_error_is_that_of_rounding(activation):
    weight, a, b = make_inputs(2, 32, 32, 10)
    exact = fmm(weight, a, b, activation)
    low = fmm(weight.bfloat16(), a.bfloat16(), b.bfloat16(), activation).double()
    error = (low - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.02  # a few roundings of 2**-9 each


@pytest.mark.parametrize(
    "shapes,words",
    [
        (([5, 3], [2, 4, 2], [2, 2, 3]), "do not produce"),
        (([5, 3], [2, 5, 2], [2, 3, 3]), "do not produce"),
        (([5, 3, 1], [2, 5, 2], [2, 2, 3]), "fmm needs weight"),
    ],
)
def test_refuses_shapes_that_do_not_fit(shapes, words):
    with pytest.raises(ValueError, match=words):
        fmm(*[torch.zeros(shape) for shape in shapes])


def test_refuses_unknown_activation():
    with pytest.raises(ValueError, match="'swish'"):
        fmm(*make_inputs(), activation="swish")
