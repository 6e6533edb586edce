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
_GRADIENTS = ("grad_weight", "grad_a", "grad_b")
# Number of each activation in `fmm.h`, and whether its product is divided by sqrt(rank).
_CODES = {name: (code, scaled) for code, (name, scaled) in enumerate(FMM_ACTIVATIONS.items())}


def why_not(tensors: Sequence[Tensor]) -> list[str]:
    """Why the kernels do not take weight, a and b, one sentence each; empty if they do."""
    if not tensors:
        return []
    weight, a, b = tensors
    reasons = []
    if not weight.dtype == a.dtype == b.dtype:
        reasons.append("the tensors have several dtypes")
    if not (weight.numel() and a.numel() and b.numel()):
        reasons.append("a tensor is empty")
    if weight.is_cuda and a.shape[-1] > MAX_CUDA_RANK:
        reasons.append(f"the rank {a.shape[-1]} is above {MAX_CUDA_RANK}")
    if weight.is_cuda and weight.shape[-1] > MAX_CUDA_COLUMNS:
        reasons.append(f"{weight.shape[-1]} columns are more than {MAX_CUDA_COLUMNS}")
    return reasons


def result_dtype(weight: Tensor, out_dtype: torch.dtype) -> torch.dtype:
    """What the kernel writes when `out_dtype` is wanted: that, or else the dtype of `weight`."""
    fused = (torch.bfloat16, torch.float16) if weight.is_cuda else (torch.bfloat16,)
    return out_dtype if weight.dtype == torch.float32 and out_dtype in fused else weight.dtype


def modulation_fields(activation: str, rank: int) -> dict[str, float]:
    """The fields of params that say how factors of a rank become a modulation."""
    code, scaled = _CODES[activation]
    return {"activation": code, "scale": 1 / math.sqrt(rank) if scaled else 1.0}


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
    fields = _fields(weight, a, b, activation, out_dtype)
    fields["out"] = out
    fields["chunk"] = _FORWARD_CHUNK
    if weight.is_cuda:
        if tensor_cores < 0:
            # Older ones know float16 only.
            tensor_cores = int(torch.cuda.get_device_capability(weight.device) >= (8, 0))
        fields["tensor_cores"] = tensor_cores
    else:
        fields["tensor_cores"] = int(tensor_cores != 0)  # emulated
    _dispatch.kernel_module("fmm", impl).call("fmm_forward", **fields)
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
        splits: Parts of the batch whose weight gradients are summed apart; 0 = by size.
    """
    weight, a, b, grad = _rows(weight), _rows(a), _rows(b), _rows(grad)
    rows, columns = weight.shape
    n, _rows_of_a, rank = a.shape
    chunk, usual = choose_parts(n, rows, weight.is_cuda)
    chunks, splits = -(-rows // chunk), max(1, min(splits or usual, n))
    precision = torch.float64 if weight.dtype == torch.float64 else torch.float32

    def scratch(*shape: int) -> Tensor:
        return weight.new_empty(shape, dtype=precision)

    fields = _fields(weight, a, b, activation, grad.dtype)
    fields["grad_out"] = grad
    fields["grad_image_stride"], fields["grad_row_stride"] = grad.stride()[:2]
    fields["grad_a_image_stride"], fields["grad_b_image_stride"] = rows * rank, rank * columns
    fields["chunk"], fields["splits"] = chunk, splits
    results = []
    for name, tensor, needed in zip(_GRADIENTS, (weight, a, b), wanted):
        if needed:
            fields[name] = tensor.new_empty(tensor.shape)
            results.append(fields[name])
    if wanted[2]:
        fields["partial_b"] = scratch(chunks, n, rank, columns)
    if wanted[0] and splits > 1:
        fields["partial_weight"] = scratch(splits, rows, columns)
    if activation == "demod":
        fields["statistics"] = scratch(n, rows, 2)
    _dispatch.kernel_module("fmm", impl).call("fmm_backward", **fields)
    return results


def choose_parts(n: int, rows: int, is_cuda: bool) -> tuple[int, int]:
    """Rows of a chunk and parts of the batch that give a processor or a device enough tasks."""
    if is_cuda:
        return _CUDA_CHUNK, choose_splits(n, rows)
    if rows <= _FORWARD_CHUNK:
        # One chunk needs no scratch memory for the gradient of b.
        return _FORWARD_CHUNK, min(n, _TASKS // 2)
    return min(max(-(-rows // (6 * _TASKS)) * 6, 18), _FORWARD_CHUNK), 1


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
    n, _rows_of_a, rank = a.shape
    rows, columns = weight.shape
    a_image_stride, a_row_stride, _unit = a.stride()
    b_image_stride, b_row_stride, _unit = b.stride()
    return {
        "weight": weight,
        "a": a,
        "b": b,
        "dtype": weight.dtype,
        "out_dtype": out_dtype,
        "n": n,
        "o": rows,
        "i": columns,
        "r": rank,
        "weight_stride": weight.stride(0),
        "a_image_stride": a_image_stride,
        "a_row_stride": a_row_stride,
        "b_image_stride": b_image_stride,
        "b_row_stride": b_row_stride,
        "threads": torch.get_num_threads(),
        **modulation_fields(activation, rank),
    }
