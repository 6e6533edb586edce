"""The check of ops without pytest: passes what is right, finds what is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from analysis import op_check
from ops import _dispatch
from ops.conv2d import gradfix
from ops.registry import CASES, OpCase

CPU = torch.device("cpu")
SMALL = [case for case in CASES if case.small]
LRELU = next(case for case in SMALL if str(case) == "bias_act-lrelu")


class _Replaced(OpCase):
    """A call whose public function is another one than the definition's."""

    function: Callable[..., torch.Tensor]

    def bind(self, reference: bool = False, device: torch.device | str = "cpu") -> Callable:
        return super().bind(reference, device) if reference else self.function


def replaced(function: Callable[..., torch.Tensor]) -> OpCase:
    fields = {field.name: getattr(LRELU, field.name) for field in dataclasses.fields(LRELU)}
    case = _Replaced(**fields)
    object.__setattr__(case, "function", function)
    return case


def lrelu(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    y = x + b[:, None, None]
    return torch.where(y < 0, 0.2 * y, y) * math.sqrt(2)


class _FirstOrderOnly(torch.autograd.Function):
    """The square, whose derivative forgets that it depends on x."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x.detach())
        return x.square()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * grad


@pytest.mark.parametrize("precision", list(op_check.PRECISIONS))
def test_all_calls_are_right_on_this_machine(precision: str) -> None:
    checks = op_check.check_cases(SMALL, CPU, [precision])
    assert [check for check in checks if not check.ok] == []
    assert len(checks) == 3 * len(SMALL)


def test_another_way_to_compute_the_same_passes() -> None:
    checks = op_check.check_case(replaced(lrelu), CPU, "fp32")
    assert [check.what for check in checks] == ["values", "first order", "second order"]
    assert all(check.ok and check.error <= 1e-6 for check in checks)


def test_wrong_values_are_found() -> None:
    checks = op_check.check_case(replaced(lambda x, b: lrelu(x, b) * 1.0001), CPU, "fp32")
    assert [check.ok for check in checks] == [False, False, True]  # lrelu has no second one
    assert checks[0].error == pytest.approx(1e-4, rel=0.01)
    assert op_check.check_case(replaced(lambda x, b: lrelu(x, b) * 1.0001), CPU, "fp16")[0].ok


def test_a_lost_second_derivative_is_found() -> None:
    square = dataclasses.replace(LRELU)
    right = op_check.derivatives(lambda x, b: x.square(), square.inputs(torch.float64), ())
    wrong = op_check.derivatives(
        lambda x, b: _FirstOrderOnly.apply(x), square.inputs(torch.float64), ()
    )
    checks = [
        op_check.compare("square", "fp64", what, "ref", [b, a, a], 1e-10)
        for what, a, b in zip(("values", "first order", "second order"), right, wrong)
    ]
    assert [check.ok for check in checks] == [True, True, False]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda x, b: lrelu(x, b)[:1], "[1, 3, 5, 4] torch.float32, not [2, 3, 5, 4]"),
        (lambda x, b: lrelu(x, b).half(), "torch.float16, not [2, 3, 5, 4] torch.float32"),
        (lambda x, b: x @ b, "RuntimeError: size mismatch"),
    ],
)
def test_what_is_no_number(function: Callable, problem: str) -> None:
    check = op_check.check_case(replaced(function), CPU, "fp32")[0]
    assert not check.ok and problem in check.problem


def test_large_calls_may_differ_at_kinks_but_not_more() -> None:
    case = next(case for case in CASES if str(case) == "bias_act-d8")
    assert not case.small
    assert all(check.ok for check in op_check.check_case(case, CPU, "fp16"))
    first = op_check.check_case(case, CPU, "fp32")[1]
    assert first.allowed == pytest.approx(0.05) and first.error < 1e-3


def test_nan_is_wrong() -> None:
    check = op_check.check_case(replaced(lambda x, b: lrelu(x, b) * torch.nan), CPU, "fp32")[0]
    assert math.isnan(check.error) and not check.ok


def test_several_results_and_integers() -> None:
    def function(x: torch.Tensor, index: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor]:
        return None, x.index_select(0, index) ** 3, x.sum()

    inputs = {"x": torch.tensor([1.0, 2.0]).double(), "index": torch.tensor([1, 1])}
    outputs, first, second = op_check.derivatives(function, inputs, ())
    assert [t.tolist() for t in outputs] == [[8, 8], 3] and len(first) == len(second) == 1


def test_kernels_that_ran_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_kernels", {})
    _dispatch.register_kernel("blend", "cpp", lambda: "module")
    seen: set[str] = set()
    with op_check.recorded_choices(seen):
        _dispatch.choose("blend", [torch.ones(1)])
    _dispatch.choose("blend", [torch.ones(1)])
    assert seen == {"cpp"}


def test_settings_are_put_back_and_time_is_kept() -> None:
    before = gradfix.enabled, torch.backends.cudnn.allow_tf32
    calls = iter([False, True, True])
    checks = op_check.check_cases(SMALL[:1], CPU, out_of_time=lambda: next(calls))
    assert {check.precision for check in checks} == {"fp32"}
    assert (gradfix.enabled, torch.backends.cudnn.allow_tf32) == before
