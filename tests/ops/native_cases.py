"""What the tests of kernels share: where they run, calls, compiled graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
import torch

from ops import _dispatch
from ops._native import Library
from ops.registry import OpCase
from tests.compare import assert_same_numbers
from tests.ops.emulated import emulated_op


def skip_without_kernel(op: str, impl: str = "cpp") -> None:
    """Skips the test where a kernel cannot be built."""
    reasons = _dispatch._kernels[op, impl].why_not_built()
    if reasons:
        pytest.skip("; ".join(reasons))


def needed_kernel(op: str) -> Callable:
    """A fixture for all tests of a module that need an op's C++ kernel and may set threads."""

    @pytest.fixture(autouse=True)
    def needs_the_kernel() -> Iterator[None]:
        skip_without_kernel(op)
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    return needs_the_kernel


@dataclass(frozen=True)
class Backend:
    """Where kernels run.

    Attributes:
        op: Name of the op's folder.
        name: "cpp" (the C++ kernel), "emulated" (the CUDA kernel on the CPU) or "cuda".
        device: Of the tensors.
        impl: What is asked for.
    """

    op: str
    name: str
    device: torch.device
    impl: str

    @staticmethod
    @contextlib.contextmanager
    def named(name: str, op: str) -> Iterator[Backend]:
        """The backend for the time of a `with` block; skips where it has no compiler."""
        if name == "emulated":
            with emulated_op(op):
                yield Backend(op, name, torch.device("cpu"), "cpp")
            return
        impl, device = ("cuda", "cuda") if name == "cuda" else ("cpp", "cpu")
        skip_without_kernel(op, impl)
        yield Backend(op, name, torch.device(device), impl)

    def used(self) -> bool:
        """Whether the kernel is what a float32 tensor gets."""
        tensors = (torch.ones(1, device=self.device),)
        return _dispatch.choose(self.op, tensors, self.impl)[0] == self.impl

    def library(self) -> Library:
        """The library that runs."""
        return _dispatch.kernel_module(self.op, self.impl)

    def half_types(self) -> list[torch.dtype]:
        """Those that the kernels of fmm and of the layers know there."""
        return [torch.bfloat16] if self.name == "cpp" else [torch.bfloat16, torch.float16]


def backend_fixture(op: str, names: Sequence[str] = ("cpp", "emulated", "cuda")) -> Callable:
    """A fixture `backend` that runs the tests of a module with kernels of an op.

    Args:
        op: Name of the op's folder.
        names: As of `Backend`; tests on "cuda" are marked `gpu`.
    """
    params = [pytest.param(name, marks=pytest.mark.gpu if name == "cuda" else ()) for name in names]

    @pytest.fixture(scope="module", params=params)
    def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
        with Backend.named(request.param, op) as found:
            yield found

    return backend


def leaves(
    case: OpCase, device: torch.device, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """Inputs as leaves."""
    tensors = case.inputs(dtype, device)
    return {name: t.requires_grad_(name not in case.constant) for name, t in tensors.items()}


def as_function(
    case: OpCase, tensors: dict[str, torch.Tensor], impl: str
) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor]]:
    """The op as a function of its tensors in their order."""
    tensor = next(iter(tensors.values()))
    op = case.bind(reference=impl == "ref", device=tensor.device)

    def function(*args: torch.Tensor) -> torch.Tensor:
        return op(**dict(zip(tensors, args)), impl=impl)

    return function, list(tensors.values())


def results(case: OpCase, impl: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The result on the CPU and all first gradients."""
    function, args = as_function(case, leaves(case, torch.device("cpu"), dtype), impl)
    y = function(*args)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [tensor for tensor in args if tensor.requires_grad]
    return [y, *torch.autograd.grad(y, wanted, v.to(dtype))]


def turned_saved_tensors() -> AbstractContextManager:
    """Hooks give saved tensors back in another order of memory, as offloading may."""

    def turned(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor

    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, turned)


def assert_saved_tensors_may_lie_otherwise(case: OpCase) -> None:
    """Gradients are the same with `turned_saved_tensors`."""
    expected = results(case, "cpp")
    with turned_saved_tensors():
        actual = results(case, "cpp")
    for tensor, exact in zip(actual, expected, strict=True):
        assert_same_numbers(tensor, exact, 1e-6)


def gradients(case: OpCase, backend: Backend, reference: bool) -> list[torch.Tensor]:
    """The result and first gradients in float32."""
    tensors = leaves(case, backend.device, torch.float32)
    function, args = as_function(case, tensors, "ref" if reference else backend.impl)
    y = function(*args)
    return [y, *torch.autograd.grad(torch.sin(y).sum(), args)]


def operators_called(function: Callable[[], object]) -> set[str]:
    """Names of the operators (see `ops._native.native_op`) that run during a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    names = [event.key.split("::") for event in profile.key_averages()]
    return {name[1] for name in names if name[0] == "inr_gan"}


def assert_compiles(
    function: Callable[..., torch.Tensor], args: tuple[torch.Tensor, ...], operators: set[str]
) -> None:
    """Compiled as one graph, a scalar function has the same value and gradients.

    Args:
        function: From tensors to a scalar.
        args: Its arguments, leaves.
        operators: Names of the operators that must run in it and its gradient.
    """
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)

    def value_and_gradients(function: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        value = function(*args)
        return [value, *torch.autograd.grad(value, args)]

    expected = value_and_gradients(function)
    for actual, wanted in zip(value_and_gradients(compiled), expected):
        assert_same_numbers(actual, wanted, 1e-6)
    assert operators_called(lambda: value_and_gradients(compiled)) == operators
    with torch.no_grad():
        assert_same_numbers(compiled(*args), expected[0], 1e-6)
