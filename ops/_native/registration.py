"""Announces the kernels of an op: sources, header, and what they support."""

from __future__ import annotations

import functools
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ops import _dispatch
from ops._native.library import Library, read_headers
from ops._native.proof import wrong_numbers
from torch_utils import custom_ops

OPS_FOLDER = Path(__file__).resolve().parents[1]
"""The folder with one folder per op."""

OLDEST_CAPABILITY = (7, 5)
"""Kernels are written for GPUs of this compute capability and newer."""

FIRST_BFLOAT16_CAPABILITY = (8, 0)

_CPU_FLAGS = ["-O3", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
_CUDA_FLAGS = ["-O3", "-std=c++17", "--extended-lambda"]


def register_native(
    op: str,
    *,
    headers: Sequence[str] = (),
    header: str | None = None,
    cpu_sources: Sequence[str] = (),
    cuda_sources: Sequence[str] = (),
    also_read: Sequence[str] = (),
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64, torch.bfloat16),
    cuda_dtypes: Sequence[torch.dtype] = (torch.float32, torch.float16, torch.bfloat16),
    unsupported: Callable[[Sequence[Tensor]], list[str]] = lambda tensors: [],
) -> None:
    """Announces the kernels of an op to `ops._dispatch`; nothing is built before its first use.

    Args:
        op: Name of the op's folder.
        headers: Headers with the params structs and declarations.
        header: The same, if there is only one.
        cpu_sources: C++ sources for CPU tensors; none = no such kernel.
        cuda_sources: CUDA sources; none = no such kernel.
        also_read: Further files that the sources include, relative to the op's folder.
        dtypes: What the CPU kernel computes in.
        cuda_dtypes: What the CUDA kernel computes in.
        unsupported: Further reasons why tensors cannot be handled, one sentence each.
    """
    described = tuple(headers) or (header or f"{op}.h",)
    kinds = (("cpp", cpu_sources, dtypes), ("cuda", cuda_sources, cuda_dtypes))
    for impl, sources, supported in kinds:
        if sources:
            _dispatch.register_kernel(
                op,
                impl,
                functools.partial(
                    build_library, op, tuple(sources), described, also_read=tuple(also_read)
                ),
                missing=functools.partial(
                    custom_ops.missing_tools, uses_cuda=impl == "cuda", uses_python=False
                ),
                unsupported=functools.partial(_reasons, impl, tuple(supported), unsupported),
                sources=tuple(sources),
                wrong_numbers=functools.partial(_wrong_numbers, op, tuple(supported)),
            )


def build_library(
    op: str,
    sources: tuple[str, ...],
    headers: tuple[str, ...],
    *,
    name: str | None = None,
    also_read: Sequence[str] = (),
    **build_kwargs: Any,
) -> Library:
    """Builds the library of an op if necessary and loads it.

    Args:
        op: Name of the op's folder.
        sources: Its `.cpp` or `.cu` files.
        headers: Its headers with declarations.
        name: Name of the library; None = after the op and the device.
        also_read: Further files that the sources include, relative to the op's folder.
        build_kwargs: Further arguments of `torch_utils.custom_ops.get_library`.

    Raises:
        ExtensionBuildError: See `get_library`.
    """
    folder = OPS_FOLDER / op
    uses_cuda = any(source.endswith(".cu") for source in sources)
    # Whatever lies beside the sources may be included by them.
    included = sorted(
        path
        for place in (folder, OPS_FOLDER / "_native")
        for path in place.iterdir()
        if path.suffix in (".h", ".cuh")
    )
    included += [folder / file for file in also_read]
    flags = {"extra_cuda_cflags": _CUDA_FLAGS} if uses_cuda else {"extra_cflags": _cpu_flags()}
    if not uses_cuda and "-fopenmp" in flags["extra_cflags"]:
        flags["extra_ldflags"] = ["-fopenmp"]
    binary = custom_ops.get_library(
        name or f"{op}_{'cuda' if uses_cuda else 'cpu'}",
        list(sources),
        headers=[str(path) for path in included],
        source_dir=str(folder),
        **(flags | build_kwargs),
    )
    return Library(binary, read_headers(folder / name for name in headers))


def _cpu_flags() -> list[str]:
    if sys.platform == "win32":
        return ["/O2", "/openmp", "/arch:AVX2"]
    if sys.platform == "darwin":
        # Apple's compiler comes without OpenMP.
        return ["-O3", "-mcpu=native", "-fno-math-errno", "-fno-trapping-math"]
    return [*_CPU_FLAGS, "-march=native"]


def _reasons(
    impl: str,
    dtypes: tuple[torch.dtype, ...],
    unsupported: Callable[[Sequence[Tensor]], list[str]],
    tensors: Sequence[Tensor],
) -> list[str]:
    reasons = []
    for dtype in {tensor.dtype: None for tensor in tensors}:
        if dtype not in dtypes and dtype.is_floating_point:
            reasons.append(f"the {impl} kernel does not compute in {str(dtype)[6:]}")
    if impl == "cuda" and tensors:
        capability = torch.cuda.get_device_capability(tensors[0].device)
        if capability < OLDEST_CAPABILITY:
            reasons.append(f"it needs compute capability 7.5, the GPU has {_dotted(capability)}")
        elif capability < FIRST_BFLOAT16_CAPABILITY and any(
            tensor.dtype == torch.bfloat16 for tensor in tensors
        ):
            reasons.append(
                f"bfloat16 needs compute capability 8.0, the GPU has {_dotted(capability)}"
            )
    return reasons + unsupported(tensors)


def _wrong_numbers(op: str, dtypes: tuple[torch.dtype, ...], device: torch.device) -> str | None:
    if torch.cuda.get_device_capability(device) < FIRST_BFLOAT16_CAPABILITY:
        dtypes = tuple(dtype for dtype in dtypes if dtype != torch.bfloat16)
    return wrong_numbers(op, device, dtypes)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def native_op(name: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that lets `torch.compile` see a function around a kernel as one operator.

    Outside of a compilation the function is called directly, without the dispatcher's cost (27
    microseconds a call). The operator itself is the attribute `operator` of the result, for
    `torch.library.opcheck`.

    Args:
        name: Name below the namespace `inr_gan`.
        fake: Same arguments; returns empty tensors of the right shapes, dtypes and devices.

    Returns:
        A decorator for functions of tensors, numbers and texts, annotated with their types, that
        return new tensors and change none.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        # The schema is read from the annotations, which must be types, not texts.
        function.__annotations__ = typing.get_type_hints(function)
        operator = torch.library.custom_op(f"inr_gan::{name}", function, mutates_args=())
        operator.register_fake(fake)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return operator(*args, **kwargs)
            return function(*args, **kwargs)

        call.operator = operator
        return call

    return decorate
