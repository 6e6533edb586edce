"""The kernels of `fmm` as functions of tensors: layouts, scratch memory, sizes.

They are declared in `fmm.h`. Nothing here is differentiable, see `autograd.py` for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import native_op
from ops.fmm.reference import FMM_ACTIVATIONS

MAX_CUDA_RANK = 32
MAX_CUDA_COLUMNS = 2048
"""A row's share of the gradient stays in shared memory; twice as many columns would fit it."""

# Rows that a task of the CPU (six at a time), and a block of columns_backward, goes through.
_FORWARD_CHUNK = 66
_CUDA_CHUNK = 128
# Tasks and blocks that keep a large processor or device busy.
_TASKS = 16
_BLOCKS = 512


def why_not(tensors: Sequence[Tensor]) -> list[str]:
    """Why the kernels do not take weight, a and b, one sentence each; empty if they do."""
    if not tensors:
        return []
    weight, a, _b = tensors
    on_gpu, columns, rank = weight.is_cuda, weight.shape[-1], a.shape[-1]
    reasons = {
        "the tensors have several dtypes": len({tensor.dtype for tensor in tensors}) > 1,
        "a tensor is empty": any(tensor.numel() == 0 for tensor in tensors),
        f"the rank {rank} is above {MAX_CUDA_RANK}": on_gpu and rank > MAX_CUDA_RANK,
        f"{columns} columns are more than {MAX_CUDA_COLUMNS}": on_gpu
        and columns > MAX_CUDA_COLUMNS,
    }
    return [reason for reason, applies in reasons.items() if applies]


def result_dtype(weight: Tensor, out_dtype: torch.dtype) -> torch.dtype:
    """What the kernel writes when `out_dtype` is wanted: that, or else the dtype of `weight`."""
    fused = (torch.bfloat16, torch.float16) if weight.is_cuda else (torch.bfloat16,)
    return out_dtype if weight.dtype == torch.float32 and out_dtype in fused else weight.dtype


def _fake_forward(weight, a, b, activation, out_dtype, impl, tensor_cores=-1):
    return weight.new_empty((a.shape[0], *weight.shape), dtype=out_dtype)


@native_op("fmm_forward", _fake_forward)
def forward(
    weight: Tensor,  # [O, I]
    a: Tensor,  # [N, O, r]
    b: Tensor,  # [N, r, I]
    activation: str,
    out_dtype: torch.dtype,
    impl: str,
    tensor_cores: int = -1,
) -> Tensor:  # [N, O, I]
    """W in `out_dtype`; in float32 (float64 for float64) up to the last rounding.

    Args:
        weight, a, b: Factors of one dtype.
        activation: A name of `FMM_ACTIVATIONS`.
        out_dtype: A result of `result_dtype`.
        impl: "cpp" or "cuda", as `ops._dispatch.choose` says.
        tensor_cores: CUDA only: 1 = results of half types may come from tensor cores, 0 = only
            where the factors are float16, -1 = by what the device multiplies.
    """
    weight, a, b = _rows(weight), _rows(a), _rows(b)
    out = weight.new_empty((a.shape[0], *weight.shape), dtype=out_dtype)
    if tensor_cores < 0:
        # Older ones know float16 only.
        new = not weight.is_cuda or torch.cuda.get_device_capability(weight.device) >= (8, 0)
        tensor_cores = int(new)
    _dispatch.kernel_module("fmm", impl).call(
        "fmm_forward",
        out=out,
        chunk=_FORWARD_CHUNK,
        tensor_cores=tensor_cores,
        **_fields(weight, a, b, activation, out_dtype),
    )
    return out


def _fake_backward(grad, weight, a, b, activation, wanted, impl, splits=0):
    tensors = zip((weight, a, b), wanted)
    return [tensor.new_empty(tensor.shape) for tensor, needed in tensors if needed]


@native_op("fmm_backward", _fake_backward)
def backward(
    grad: Tensor,  # [N, O, I]
    weight: Tensor,  # [O, I]
    a: Tensor,  # [N, O, r]
    b: Tensor,  # [N, r, I]
    activation: str,
    wanted: Sequence[bool],
    impl: str,
    splits: int = 0,
) -> list[Tensor]:
    """Gradients of those of weight, a and b that are wanted, in their dtype.

    Args:
        grad: Gradient of W, in the dtype of W.
        weight, a, b, activation, impl: As for `forward`.
        wanted: Which of the three are.
        splits: Parts of the batch whose weight gradients are summed apart, on CUDA; 0 = by size.
    """
    weight, a, b, grad = _rows(weight), _rows(a), _rows(b), _rows(grad)
    rows, columns = weight.shape
    n, _rows_of_a, rank = a.shape
    precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
    chunk = _CUDA_CHUNK if weight.is_cuda else min(max(-(-rows // (6 * _TASKS)) * 6, 18), 66)
    if splits == 0:
        splits = choose_splits(n, rows) if weight.is_cuda else 1

    def scratch(*shape: int, used: bool = True) -> Tensor | None:
        return weight.new_empty(shape, dtype=precision) if used else None

    results = [
        tensor.new_empty(tensor.shape) if needed else None
        for tensor, needed in zip((weight, a, b), wanted)
    ]
    _dispatch.kernel_module("fmm", impl).call(
        "fmm_backward",
        grad_out=grad,
        grad_weight=results[0],
        grad_a=results[1],
        grad_b=results[2],
        partial_b=scratch(-(-rows // chunk), n, rank, columns, used=wanted[2]),
        partial_weight=scratch(splits, rows, columns, used=wanted[0] and splits > 1),
        statistics=scratch(n, rows, 2, used=activation == "demod"),
        grad_image_stride=grad.stride(0),
        grad_row_stride=grad.stride(1),
        chunk=chunk,
        splits=splits,
        **_fields(weight, a, b, activation, grad.dtype),
    )
    return [result for result in results if result is not None]


def choose_splits(n: int, rows: int) -> int:
    """Parts of the batch, of four images or more, that give a device enough blocks."""
    blocks = -(-rows // 8)
    return max(1, min(n // 4, -(-_BLOCKS // blocks)))


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy if the values of a row are not neighbours."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _fields(
    weight: Tensor, a: Tensor, b: Tensor, activation: str, out_dtype: torch.dtype
) -> dict[str, Any]:
    """The fields of `FmmParams` that both directions have."""
    rank = a.shape[2]
    return {
        "weight": weight,
        "a": a,
        "b": b,
        "dtype": weight.dtype,
        "out_dtype": out_dtype,
        "n": a.shape[0],
        "o": weight.shape[0],
        "i": weight.shape[1],
        "r": rank,
        "activation": list(FMM_ACTIVATIONS).index(activation),
        "weight_stride": weight.stride(0),
        "a_image_stride": a.stride(0),
        "a_row_stride": a.stride(1),
        "b_image_stride": b.stride(0),
        "b_row_stride": b.stride(1),
        "threads": torch.get_num_threads(),
        "scale": 1 / math.sqrt(rank) if FMM_ACTIVATIONS[activation] else 1.0,
    }
