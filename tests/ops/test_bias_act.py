"""`ops.bias_act`: numbers by hand, golden files, the table of functions, messages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ops.bias_act import activation_funcs, bias_act
from tests.compare import assert_same_numbers
from tests.golden_files import cases

GOLDEN = dict(cases("bias_act_clamp1.5"))


def test_by_hand() -> None:
    x = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    b = torch.tensor([1.0, -1.0])
    assert bias_act(x, b).tolist() == [[2, -3], [1, 2]]
    assert bias_act(x, b, dim=0).tolist() == [[2, -1], [-1, 2]]
    assert bias_act(x, b, act="relu", gain=2).tolist() == [[4, 0], [2, 4]]
    assert bias_act(x, b, act="lrelu", alpha=0.5, gain=1).tolist() == [[2, -1.5], [1, 2]]
    assert bias_act(x, b, gain=2, clamp=3).tolist() == [[3, -3], [2, 3]]
    assert bias_act(x, clamp=0).tolist() == [[0, 0], [0, 0]]
    negative, positive = bias_act(torch.tensor([-1.0, 1.0]), dim=0, act="lrelu").tolist()
    assert positive == pytest.approx(math.sqrt(2))
    assert negative == pytest.approx(-0.2 * math.sqrt(2))


@pytest.mark.parametrize("impl", ["auto", "ref", "cuda"])
@pytest.mark.parametrize("act", sorted(GOLDEN))
def test_golden(act: str, impl: str) -> None:
    data = {name: torch.from_numpy(values) for name, values in GOLDEN[act].items()}
    x, b = data["x"].requires_grad_(), data["b"].requires_grad_()
    y = bias_act(x, b, act=act, clamp=1.5, impl=impl)
    gx, gb = torch.autograd.grad(y, (x, b), data["v"], create_graph=True)
    assert_same_numbers(y, data["y"], 1e-12, "y")
    assert_same_numbers(gx, data["gx"], 1e-12, "gx")
    assert_same_numbers(gb, data["gb"], 1e-12, "gb")
    if "d_sum_gx2_dx" in data:
        (second,) = torch.autograd.grad(gx.square().sum() + 0 * x.sum(), x)
        assert_same_numbers(second, data["d_sum_gx2_dx"], 1e-12, "second order")


def test_table_of_functions() -> None:
    names = ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]
    assert list(activation_funcs) == names
    assert [activation_funcs[name].cuda_idx for name in names] == list(range(1, 10))
    assert [name for name in names if not activation_funcs[name].has_2nd_grad] == names[:3]
    root2 = [name for name in names if activation_funcs[name].def_gain == np.sqrt(2)]
    assert root2 == ["relu", "lrelu", "swish"]
    assert activation_funcs["lrelu"]["def_alpha"] == 0.2
    assert [activation_funcs[name].ref for name in names] == ["", *["y"] * 7, "x"]
    x = torch.linspace(-2, 2, 5)
    halved = activation_funcs["lrelu"].func(x, alpha=0.5)
    assert torch.equal(halved, torch.where(x < 0, x / 2, x))


@given(
    gain=st.floats(0.1, 3),
    alpha=st.floats(0, 1),
    act=st.sampled_from(["linear", "relu", "lrelu"]),
    scale=st.floats(0.1, 3),
)
def test_piecewise_linear_functions_are_homogeneous(gain, alpha, act, scale) -> None:
    x, b = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    once = bias_act(scale * x, scale * b, act=act, alpha=alpha, gain=gain)
    assert torch.allclose(once, scale * bias_act(x, b, act=act, alpha=alpha, gain=gain))


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_nan_passes_through(impl: str) -> None:
    x = torch.full((1, 1), torch.nan)
    assert bias_act(x, torch.zeros(1), act="lrelu", clamp=1, impl=impl).isnan().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"act": "gelu"}, ValueError, "linear, relu, .*got 'gelu'"),
        ({"clamp": -1}, ValueError, "None or >= 0, got -1"),
        ({"dim": 2}, ValueError, r"dimension of x \[2, 3\], got 2"),
        ({"b": torch.ones(2)}, ValueError, r"shape \[3\], got \[2\]"),
        ({"b": torch.ones(3, 1)}, ValueError, r"shape \[3\], got \[3, 1\]"),
        ({"b": torch.ones(3).double()}, TypeError, "torch.float32, got torch.float64"),
        ({"impl": "fast"}, ValueError, "got 'fast'"),
    ],
)
def test_messages(change: dict, error: type[Exception], message: str) -> None:
    args = {"x": torch.ones(2, 3), "b": torch.ones(3)} | change
    with pytest.raises(error, match=message):
        bias_act(**args)
