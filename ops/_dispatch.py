"""Which implementation of an op runs, and why.

Every op has a plain PyTorch implementation ("ref"). Compiled kernels ("cuda" for CUDA tensors,
"cpp" for CPU tensors) are announced with `register_kernel` by the op's `api.py` and are loaded on
first use. `choose` decides per call; `status` answers for `python -m torch_utils.info`. With
GAN_OPS=plain in the environment no compiled kernel is used.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

import ops

IMPLS = ("auto", "ref", "cuda", "cpp")

SWITCH = "GAN_OPS"
"""Environment variable; "plain" turns compiled kernels off wherever impl is "auto"."""

_MOST_ANSWERS = 4096
"""Calls are told apart by shapes: a training has a hundred of them."""

_log = logging.getLogger("ops")
_Answer = TypeVar("_Answer")


@dataclass(eq=False)
class Kernel:
    """One compiled implementation of one op.

    Attributes:
        op: Name of the op's folder.
        impl: "cuda" or "cpp".
        load: Builds and returns the extension; raises when the build fails.
        missing: What this machine lacks to build it (no compiler, ...), one sentence each; empty
            if it can be built.
        unsupported: Why these tensors cannot be handled (dtype, size, ...), one sentence each.
        sources: What it is compiled from, relative to the op's folder.
        wrong_numbers: What is wrong with its numbers on a GPU, one sentence, or None; asked before
            its first use there.
    """

    op: str
    impl: str
    load: Callable[[], object]
    missing: Callable[[], list[str]]
    unsupported: Callable[[Sequence[torch.Tensor]], list[str]]
    sources: tuple[str, ...] = ()
    wrong_numbers: Callable[[torch.device], str | None] | None = None
    _module: object = field(default=None, init=False)
    _proven: bool = field(default=False, init=False)
    _missing: list[str] | None = field(default=None, init=False)
    _failure: Exception | None = field(default=None, init=False)

    def why_not_built(self) -> list[str]:
        """The result of `missing`, asked once per process."""
        if self._missing is None:
            self._missing = list(self.missing())
        return self._missing

    def module(self) -> object:
        """The loaded extension. A failed build is remembered and raised again, not retried."""
        if self._failure is not None:
            raise self._failure
        if self._module is None:
            try:
                self._module = self.load()
            except Exception as error:
                self._failure = error
                raise
        return self._module

    def prove(self, device: torch.device) -> None:
        """Before the first use on a GPU: raises if the numbers are wrong there."""
        if self._proven or self.wrong_numbers is None:
            return
        # Set first: the proof calls the op.
        self._proven = True
        problem = self.wrong_numbers(device)
        if problem is not None:
            self._failure = RuntimeError(f"{problem}; {SWITCH}=plain runs without kernels")
            raise self._failure


_kernels: dict[tuple[str, str], Kernel] = {}
_said: set[str] = set()
_answers: dict[tuple, tuple] = {}


def register_kernel(
    op: str,
    impl: str,
    load: Callable[[], object],
    *,
    missing: Callable[[], list[str]] = list,
    unsupported: Callable[[Sequence[torch.Tensor]], list[str]] = lambda tensors: [],
    sources: tuple[str, ...] = (),
    wrong_numbers: Callable[[torch.device], str | None] | None = None,
) -> Kernel:
    """Announces a compiled implementation. Nothing is built before its first use.

    Args: as the attributes of `Kernel`.

    Raises:
        ValueError: `impl` is not "cuda" or "cpp".
    """
    if impl not in ("cuda", "cpp"):
        raise ValueError(f"a kernel's impl must be 'cuda' or 'cpp', got {impl!r}")
    kernel = Kernel(op, impl, load, missing, unsupported, sources, wrong_numbers)
    _kernels[op, impl] = kernel
    return kernel


def choose(
    op: str, tensors: Sequence[torch.Tensor | None], impl: str = "auto"
) -> tuple[str, list[str]]:
    """Chooses the implementation of `op` for these tensors.

    Args:
        op: Name of the op's folder.
        tensors: The op's tensor arguments; None entries are ignored.
        impl: "auto" or its alias "cuda": the fastest one available for the tensors' device.
            "ref": the plain PyTorch one. "cpp": the compiled CPU kernel or an error.

    Returns:
        "ref", "cuda" or "cpp", and the reasons, one sentence each. That there is no compiler, that
        a build failed, and what a GPU's kernel does not support is also logged, once per process.

    Raises:
        ValueError: Unknown `impl`.
        RuntimeError: impl="cpp" was asked for and cannot run; the message lists why.
        Exception: A kernel's own build error, if a compiler was found and the build failed, on a
            GPU or if impl="cpp" was asked for.
    """
    if impl not in IMPLS:
        raise ValueError(f"{op}: impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if impl == "ref":
        return "ref", ["impl='ref' was asked for"]
    if not _kernels and impl != "cpp":
        return "ref", ["no compiled kernel is part of this version"]
    if impl != "cpp" and _switched_off():
        return "ref", [f"{SWITCH}=plain is set"]
    present = [tensor for tensor in tensors if tensor is not None]
    devices = device_types(present)
    name = "cuda" if impl != "cpp" and "cuda" in devices else "cpp"
    if present and torch.compiler.is_compiling():
        _make_ready(op, name, present[0].device.type, present[0].device.index)
    kernel = _kernels.get((op, name))
    reasons = _why_not(op, kernel, name, present, devices)
    if not reasons and (name == "cuda" or impl == "cpp" or _builds(kernel)):
        kernel.module()
        if name == "cuda":
            kernel.prove(present[0].device)
        return name, [f"the compiled {name} kernel supports these tensors"]
    if impl == "cpp":
        raise RuntimeError(f"{op}: impl='cpp' cannot run: {'; '.join(reasons)}")
    if kernel is None:
        return "ref", reasons
    if not reasons:
        return "ref", ["its build failed"]
    if kernel.why_not_built():
        _say_once(f"plain PyTorch instead of compiled {name} kernels: {'; '.join(reasons)}")
    elif name == "cuda":
        _say_once(f"{op}: plain PyTorch instead of the cuda kernel: {'; '.join(reasons)}")
    return "ref", reasons


def remembered(
    op: str,
    question: tuple,
    tensors: Sequence[torch.Tensor | None],
    make: Callable[[], _Answer],
) -> _Answer:
    """What `make` returned when it was first asked about tensors like these; not while traced.

    For what takes longer to find out than a small kernel runs: whether the op's C++ kernel takes a
    call, and its fields but for addresses. That may depend on the kernel, GAN_OPS, the number of
    threads, on what has a gradient and on shapes, dtypes and devices; not on values or strides.

    Args:
        op: Whose C++ kernel it is.
        question: What else the answer depends on; hashable.
        tensors: The call's tensors.
        make: Finds the answer. What it raises is raised, and it is asked again the next time.
    """
    key = (
        op,
        _kernels.get((op, "cpp")),
        os.environ.get(SWITCH),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        question,
        *[t if t is None else (t.shape, t.dtype, t.device, t.requires_grad) for t in tensors],
    )
    found = _answers.get(key)
    if found is None:
        found = (make(),)
        if len(_answers) >= _MOST_ANSWERS:
            _answers.clear()
        _answers[key] = found
    return found[0]


def is_announced(op: str, tensor: torch.Tensor) -> bool:
    """Whether an op has a kernel for the device of a tensor, whatever else it needs."""
    return (op, "cuda" if tensor.is_cuda else "cpp") in _kernels


def device_types(tensors: Sequence[torch.Tensor]) -> set[str]:
    """Types of the devices of tensors, each asked for once: a type is a new text every time."""
    return {device.type for device in {tensor.device for tensor in tensors}}


def is_traced() -> bool:
    """Whether something has to see PyTorch's operations one by one: a compiler, or autocast."""
    return torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")


def _make_ready(op: str, impl: str, device_type: str, index: int | None) -> bool:
    """Looks for tools, builds and proves before `torch.compile` traces what depends on it.

    A compiler of whole graphs cannot follow any of this. What fails is remembered by the kernel.
    """
    kernel = _kernels.get((op, impl))
    if kernel is None or kernel.why_not_built():
        return False
    try:
        kernel.module()
        if impl == "cuda":
            kernel.prove(torch.device(device_type, index))
    except Exception:
        return False
    return True


# What torch.compiler.assume_constant_result does; that itself would import the compiler everywhere.
_make_ready._dynamo_marked_constant = True


def trust_kernels() -> None:
    """Kernels announced so far are used unproven; for checks that compare numbers themselves."""
    for kernel in _kernels.values():
        kernel.wrong_numbers = None


def _switched_off() -> bool:
    value = os.environ.get(SWITCH, "")
    if value not in ("", "auto", "plain"):
        raise ValueError(f"{SWITCH} must be 'plain' or 'auto', got {value!r}")
    return value == "plain"


def _builds(kernel: Kernel) -> bool:
    """Whether a CPU kernel can be had; if its build fails, this is said once.

    Plain PyTorch takes its place: a broken compiler must not keep anyone from working on a CPU.
    """
    try:
        kernel.module()
    except Exception as error:
        _say_once(f"{kernel.op}: plain PyTorch instead of the cpp kernel: {error}")
        return False
    return True


def kernel_module(op: str, impl: str) -> object:
    """The loaded extension of a registered kernel, after `choose` named it."""
    return _kernels[op, impl].module()


def registered() -> list[tuple[str, str]]:
    """(op, impl) of every announced kernel, sorted. Imports all ops, builds nothing."""
    status()
    return sorted(_kernels)


def status() -> dict[str, dict[str, str]]:
    """For every op and device type, the implementation that impl='auto' means and why.

    Returns:
        `{op: {"cpu": "ref (reason)", "cuda": "ref (reason)"}}`, ops in alphabetical order. A kernel
        may still refuse certain dtypes or sizes. Nothing is built.
    """
    report = {}
    for info in pkgutil.iter_modules(ops.__path__):
        if info.ispkg and not info.name.startswith("_"):
            importlib.import_module(f"ops.{info.name}")
            report[info.name] = {
                device: _status_line(info.name, impl)
                for device, impl in (("cpu", "cpp"), ("cuda", "cuda"))
            }
    return report


def _status_line(op: str, impl: str) -> str:
    kernel = _kernels.get((op, impl))
    off = [f"{SWITCH}=plain is set"] if _switched_off() else []
    reasons = off or _why_not(op, kernel, impl, [], set())
    if reasons or kernel is None:
        return f"ref ({'; '.join(reasons)})"
    origin = f" from {', '.join(kernel.sources)}" if kernel.sources else ""
    return f"{impl} (compiled on first use{origin})"


def _why_not(
    op: str,
    kernel: Kernel | None,
    name: str,
    tensors: Sequence[torch.Tensor],
    devices: set[str],
) -> list[str]:
    if kernel is None:
        return [f"{op} has no {name} kernel in this version"]
    expected = "cuda" if name == "cuda" else "cpu"
    if devices - {expected}:
        return [f"the {name} kernel needs {expected} tensors, got {', '.join(sorted(devices))}"]
    return [*kernel.why_not_built(), *kernel.unsupported(tensors)]


def _say_once(message: str) -> None:
    if message in _said:
        return
    _said.add(message)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_rank() == 0:
        _log.warning(message)
