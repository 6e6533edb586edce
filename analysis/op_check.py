"""Correctness of the ops on a device, without pytest: values, first and second derivatives.

Every call of `ops.registry` runs on the device and is compared with its definition in float64. The
same is computed with the definition in the precision of the call: a kernel may be twice as wrong as
that, and is allowed the errors of `TOLERANCES` in any case. Needs torch and numpy only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ops import _dispatch
from ops.conv2d import gradfix
from ops.registry import OpCase

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

TOLERANCES = {
    torch.float64: (1e-12, 1e-11, 1e-10),
    torch.float32: (1e-5, 1e-5, 1e-4),
    torch.bfloat16: (2**-7, 2**-6, 2**-5),
    torch.float16: (2**-10, 2**-9, 2**-8),
}
"""Relative RMS errors that are always allowed, of values, first and second derivatives (but see
`check_case`)."""

# Behind a kink (leaky ReLU, clamp) a value that is rounded differently may fall on its other side;
# its derivatives are those of the other side, not wrong. Of millions some always do, of hundreds
# one may in low precision. That formulas are right is seen in float32, in small calls.
_KINKS_LARGE = 0.05
_KINKS_LOW = 0.3

_RATIO = 2.0
_ORDERS = ("values", "first order", "second order")
_TINY = 1e-30


@dataclass(frozen=True)
class Check:
    """One comparison of one call.

    Attributes:
        case: Readable id of the call.
        precision: A name of `PRECISIONS`.
        what: "values", "first order" or "second order".
        impl: The implementations that ran, such as "cuda" or "cuda+ref".
        error: Relative RMS error against the definition in float64; the worst of several tensors.
        allowed: Largest error that passes.
        problem: What went wrong besides numbers (an exception, a shape), else "".
    """

    case: str
    precision: str
    what: str
    impl: str
    error: float
    allowed: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the numbers are right; NaN is not."""
        return not self.problem and self.error <= self.allowed


@contextlib.contextmanager
def recorded_choices(seen: set[str]) -> Iterator[None]:
    """Inside the block, the implementations that ops choose are added to `seen`."""
    original = _dispatch.Kernel.module

    def module(kernel: _dispatch.Kernel) -> object:
        loaded = original(kernel)
        seen.add(kernel.impl)
        return loaded

    _dispatch.Kernel.module = module
    try:
        yield
    finally:
        _dispatch.Kernel.module = original


def floating(tensors: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among the arguments that hold floating-point numbers."""
    return [t for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()]


def derivatives(
    function: Callable[..., Any],
    inputs: dict[str, torch.Tensor],
    constant: Sequence[str],
    seed: int = 1,
) -> list[list[torch.Tensor]]:
    """Values, first and second derivatives of a function of named tensors.

    Second derivatives are those of sum_i |dL/dx_i|^2, with L = sum(v * y) and v normal random
    numbers, rounded to the precision of y.

    Returns:
        Three lists of tensors; what is not connected is zero.
    """
    leaves = {
        name: tensor.detach()
        .clone()
        .requires_grad_(tensor.is_floating_point() and name not in constant)
        for name, tensor in inputs.items()
    }
    args = [leaf for leaf in leaves.values() if leaf.requires_grad]
    result = function(**leaves)
    outputs = floating(result if isinstance(result, (tuple, list)) else [result])
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros([], device=outputs[0].device, dtype=outputs[0].dtype)
    for y in outputs:
        v = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        loss = loss + (y * v.to(y.device, y.dtype)).sum().to(loss.dtype)
    first = torch.autograd.grad(loss, args, create_graph=True, materialize_grads=True)
    penalty = sum(gradient.square().sum().to(loss.dtype) for gradient in first)
    second = [torch.zeros_like(arg) for arg in args]
    if isinstance(penalty, torch.Tensor) and penalty.requires_grad:
        second = list(torch.autograd.grad(penalty, args, materialize_grads=True))
    return [[t.detach() for t in tensors] for tensors in (outputs, first, second)]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """RMS of the difference over the RMS of `expected`; of zeros, RMS of `actual`."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    if actual.numel() == 0:
        return 0.0
    scale = expected.square().mean().sqrt().item()
    difference = (actual - expected).square().mean().sqrt().item()
    return difference / scale if scale > _TINY else difference


def check_case(case: OpCase, device: torch.device, precision: str) -> list[Check]:
    """Compares one call with its definition.

    Args:
        case: The call.
        device: Where the op runs; the definition runs in float64 there for large cases, else on
            the CPU.
        precision: A name of `PRECISIONS`.

    Returns:
        One check each for values, first and second order, or one that holds an exception. For
        derivatives of large cases, and in low precision, more is allowed than `TOLERANCES`.
    """
    dtype = PRECISIONS[precision]
    exact_device = torch.device("cpu") if case.small else device
    seen: set[str] = set()
    try:
        inputs = case.inputs(dtype, device)
        exact_inputs = {
            name: t.to(exact_device, torch.float64 if t.is_floating_point() else t.dtype)
            for name, t in inputs.items()
        }
        with recorded_choices(seen):
            actual = derivatives(case.bind(device=device), inputs, case.constant)
        definition = case.bind(reference=True, device=device)
        same = derivatives(definition, inputs, case.constant)
        definition = case.bind(reference=True, device=exact_device)
        exact = derivatives(definition, exact_inputs, case.constant)
    except Exception as error:  # a report of everything, not of the first thing that fails
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return [Check(str(case), precision, "run", "-", float("nan"), 0.0, problem)]
    impl = "+".join(sorted(seen)) or "ref"
    floors = TOLERANCES[dtype]
    if not case.small or dtype in (torch.bfloat16, torch.float16):
        kinks = _KINKS_LOW if case.small else _KINKS_LARGE
        floors = (floors[0], kinks, kinks)
    return [
        compare(str(case), precision, what, impl, tensors, floor)
        for what, floor, *tensors in zip(_ORDERS, floors, actual, same, exact)
    ]


def compare(
    case: str,
    precision: str,
    what: str,
    impl: str,
    tensors: Sequence[Sequence[torch.Tensor]],
    floor: float,
) -> Check:
    """One `Check` of several tensors: the one that is furthest beyond what it may be.

    Args:
        case, precision, what, impl: As `Check`.
        tensors: What is tested, the definition in the same precision, the definition in float64.
        floor: Error that is always allowed.
    """
    worst = Check(case, precision, what, impl, 0.0, floor)
    for actual, same, exact in zip(*tensors):
        if actual.shape != exact.shape or actual.dtype != same.dtype:
            problem = f"{list(actual.shape)} {actual.dtype}, not {list(exact.shape)} {same.dtype}"
            return Check(case, precision, what, impl, float("nan"), floor, problem)
        error = relative_error(actual, exact)
        allowed = max(floor, _RATIO * relative_error(same, exact))
        # Not `>`: NaN must count as worse.
        if not error / allowed <= worst.error / worst.allowed:
            worst = Check(case, precision, what, impl, error, allowed)
    return worst


def check_cases(
    cases: Iterable[OpCase],
    device: torch.device,
    precisions: Sequence[str] = tuple(PRECISIONS),
    out_of_time: Callable[[], bool] = lambda: False,
) -> list[Check]:
    """Runs `check_case` for all calls, until the time is up.

    Matrix products and convolutions of the definitions run in full float32 meanwhile.
    """
    checks: list[Check] = []
    _dispatch.trust_kernels()
    tf32 = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    gradients = gradfix.enabled
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    gradfix.enabled = True
    try:
        for case in cases:
            for precision in precisions:
                if not out_of_time():
                    checks += check_case(case, device, precision)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
        gradfix.enabled = gradients
    return checks
