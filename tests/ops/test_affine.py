"""`ops.affine`: numbers by hand; both products equal the definition, to second order."""

from __future__ import annotations

import pytest
import torch

from ops.affine import affine, plain
from ops.registry import CASES, OpCase
from tests.compare import assert_same_numbers
from tests.ops.native_cases import as_function, leaves

CALLS = [case for case in CASES if case.op == "affine"]
CPU = torch.device("cpu")


def test_by_hand() -> None:
    x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [-1.0, 0.0]])
    assert affine(x, weight, torch.tensor([0.5, 1.0]), gain=2).tolist() == [[22.5, -1]]
    assert affine(x, weight).tolist() == [[11, -1]]


@pytest.mark.parametrize("limit", [0, 2**20])
@pytest.mark.parametrize("case", CALLS, ids=str)
def test_both_products_equal_the_definition(
    case: OpCase, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "_LARGE_WEIGHT", limit)
    results = {}
    for impl in ("auto", "ref"):
        function, args = as_function(case, leaves(case, CPU), impl)
        y = function(*args)
        assert y.is_contiguous()
        results[impl] = [y, *torch.autograd.grad(torch.sin(y).sum(), args)]
    for actual, expected in zip(results["auto"], results["ref"], strict=True):
        assert_same_numbers(actual, expected, 1e-12)


@pytest.mark.parametrize("limit", [0, 2**20])
def test_derivatives_of_first_and_second_order(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_LARGE_WEIGHT", limit)
    function, args = as_function(CALLS[0], leaves(CALLS[0], CPU), "auto")
    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)


def test_there_is_no_kernel() -> None:
    one = torch.ones(1, 1)
    with pytest.raises(RuntimeError, match="affine: impl='cpp' cannot run: affine has no cpp"):
        affine(one, one, impl="cpp")
