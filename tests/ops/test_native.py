"""ops._native: headers as descriptions, calls of C functions, CUDA kernels on fibers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from ops import _native
from ops._native.proof import wrong_numbers
from ops._native.registration import OPS_FOLDER
from tests.ops.emulated import emulated_op
from torch_utils import compilers, custom_ops

needs_compiler = pytest.mark.skipif(
    bool(compilers.missing_tools(uses_cuda=False, uses_python=False)),
    reason="no C++ compiler or ninja",
)

HEADER = """
#pragma once
#include "../_native/abi.h"
struct ScaleParams {
    const void* x;     // [n]; the input
    void* y;           // [n]
    int64_t n, dtype;  // two names are refused
};
"""
GOOD = HEADER.replace("int64_t n, dtype;", "int64_t n; int64_t dtype; double factor;") + (
    "INR_EXPORT const char* scale(const ScaleParams* p);\n"
    "INR_EXPORT const char* absent(const ScaleParams* p);\n"
)
KERNELS = """
#include "device.h"
#include "toy.h"

// Reverses 64 numbers in shared memory, adds up every warp, and scales.
template <typename T>
__global__ void reverse(const T* x, T* y, accumulator_t<T> factor) {
    __shared__ T line[64];
    const int i = threadIdx.x;
    line[i] = x[i];
    BARRIER
    accumulator_t<T> sum = to_float(line[63 - i]);
    for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(~0u, sum, apart);
    y[i] = from_float<T>(sum * factor);
}

// D = A B, A [16, 16] and B [16, 8], both row by row, through shared memory and one warp.
template <typename T>
__global__ void product(const T* a, const T* b, float* d) {
    DYNAMIC_SHARED(T, shared);
    const int lane = threadIdx.x;
    copy_async16(shared + lane * 8, a + lane * 8, true);
    if (lane < 16) copy_async16(shared + 256 + lane * 8, b + lane * 8, true);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    uint32_t left[4], right[4];
    ldmatrix_x4(left, shared + (lane % 8 + lane / 8 % 2 * 8) * 16 + lane / 16 * 8);
    ldmatrix_x4_trans(right, shared + 256 + lane % 16 * 8);
    const uint32_t both[2] = {right[0], right[1]};
    float sums[4] = {};
    mma_16x8x16<T>(sums, left, both);
    for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

__global__ void stuck() { if (threadIdx.x == 0) __syncthreads(); else __syncwarp(); }

const char* scale(const ToyParams* p) {
    if (p->n == 0) return launch(stuck, dim3(1), dim3(64), 0, nullptr);
    if (p->dtype == INR_BFLOAT16) {
        typedef bfloat16_t T;
        return launch(product<T>, dim3(1), dim3(32), 1024, nullptr, (const T*)p->x,
                      (const T*)p->x + 256, (float*)p->y);
    }
    if (p->dtype == INR_FLOAT16) {
        typedef half_t T;
        return launch(product<T>, dim3(1), dim3(32), 1024, nullptr, (const T*)p->x,
                      (const T*)p->x + 256, (float*)p->y);
    }
    return launch(reverse<double>, dim3(1), dim3(64), 0, nullptr, (const double*)p->x,
                  (double*)p->y, p->factor);
}
"""
TOY_HEADER = """
#pragma once
#include "abi.h"
struct ToyParams { const void* x; void* y; int64_t n; int64_t dtype; double factor; };
INR_EXPORT const char* scale(const ToyParams* p);
"""


def test_a_header_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.h").write_text(GOOD)
    functions = _native.read_headers([tmp_path / "good.h"])
    assert list(functions) == ["scale", "absent"]
    assert list(functions["scale"].positions) == ["x", "y", "n", "dtype", "factor"]
    packed = functions["scale"].pack(1, 2, -3, 4, 0.5)
    assert packed == struct.pack("<QQqqd", 1, 2, -3, 4, 0.5)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.h").write_text(HEADER)
    with pytest.raises(ValueError, match="ScaleParams: cannot read the field 'int64_t n, dtype'"):
        _native.read_headers([tmp_path / "bad.h"])
    (tmp_path / "bad.h").write_text("INR_EXPORT const char* f(const Absent* p);")
    with pytest.raises(ValueError, match="no header defines the struct Absent"):
        _native.read_headers([tmp_path / "bad.h"])


def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, barrier: str = "__syncthreads();"):
    monkeypatch.setattr(custom_ops, "verbosity", "none")
    (tmp_path / "toy.h").write_text(TOY_HEADER)
    (tmp_path / "toy.cpp").write_text(KERNELS.replace("BARRIER", barrier))
    binary = custom_ops.get_library(
        "toy",
        ["toy.cpp"],
        ["toy.h", *map(str, (OPS_FOLDER / "_native").glob("*.h"))],
        str(tmp_path),
        extra_cflags=["-O1", "-fno-gnu-unique", "-DINR_EMULATE", f"-I{OPS_FOLDER / '_native'}"],
    )
    return _native.Library(binary, _native.read_headers([tmp_path / "toy.h"]))


@needs_compiler
def test_kernels_on_fibers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = toy(tmp_path, monkeypatch)
    assert library.has("scale") and not library.has("absent")
    x = torch.randn(64, dtype=torch.float64)
    expected = 0.5 * x.flip(0).view(2, 32).sum(1).repeat_interleave(32)
    for order in (0, 1, 2):
        library.binary.emulation_set_order(order)
        y = torch.empty_like(x)
        library.call("scale", x=x, y=y, n=64, dtype=x.dtype, factor=0.5)
        torch.testing.assert_close(y, expected)
    for dtype in (torch.float16, torch.bfloat16):
        pair = torch.randn(384).to(dtype)
        y = torch.empty(16, 8)
        library.call("scale", x=pair, y=y, n=1, dtype=dtype)
        a, b = pair[:256].view(16, 16), pair[256:].view(16, 8)
        torch.testing.assert_close(y, a.float() @ b.float())
    with pytest.raises(RuntimeError, match="scale: threads wait for each other"):
        library.call("scale", n=0)
    with pytest.raises(TypeError, match="scale has no field 'm'"):
        library.call("scale", m=1)
    with pytest.raises(TypeError, match="scale: required argument is not an integer"):
        library.call("scale", n=0.5)


@needs_compiler
def test_fields_are_filled_in_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = toy(tmp_path, monkeypatch)
    bound = library.bind("scale", n=64, dtype=torch.float64, factor=0.5)
    doubled = bound.bind(factor=2.0)
    results = {}
    for name, function in (("half", bound), ("double", doubled), ("again", bound)):
        x, y = torch.full([64], 3.0, dtype=torch.float64), torch.empty(64, dtype=torch.float64)
        function(x=x, y=y)
        results[name] = y
    assert torch.equal(results["half"], results["again"])
    torch.testing.assert_close(results["double"], 4 * results["half"])
    assert results["half"].abs().sum() > 0
    with pytest.raises(TypeError, match="scale has no field 'm'"):
        library.bind("scale", m=1)
    with pytest.raises(RuntimeError, match="scale: threads wait for each other"):
        bound(n=0)


@needs_compiler
def test_a_missing_barrier_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = toy(tmp_path, monkeypatch, barrier="")
    x = torch.randn(64, dtype=torch.float64)
    results = []
    for order in (0, 1):
        library.binary.emulation_set_order(order)
        results.append(torch.empty_like(x))
        library.call("scale", x=x, y=results[-1], n=64, dtype=x.dtype, factor=1.0)
    assert not torch.equal(*results)


def test_operators_for_the_compiler() -> None:
    def fake(x: torch.Tensor, factor: float) -> torch.Tensor:
        return torch.empty_like(x)

    @_native.native_op("test_scaled", fake)
    def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    assert scaled(torch.ones(2), 3.0).tolist() == [3, 3]
    torch.library.opcheck(scaled.operator, (torch.ones(2), 3.0))


@needs_compiler
def test_wrong_numbers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_ops, "verbosity", "none")
    half = (torch.float16, torch.float32)
    with emulated_op("fmm") as library:
        assert wrong_numbers("fmm", torch.device("cpu"), half) is None
        right = library.call

        def call(function: str, **fields: object) -> None:
            right(function, **fields)
            if function == "fmm_forward":
                fields["out"].mul_(1.1)

        monkeypatch.setattr(library, "call", call)
        problem = wrong_numbers("fmm", torch.device("cpu"), half)
    assert problem is not None and "the kernel of fmm gives other numbers on cpu" in problem
    assert "values: relative error 0.1" in problem


@needs_compiler
def test_wrong_numbers_of_inference_alone_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_ops, "verbosity", "none")
    with emulated_op("fmm") as library:
        right, forwards = library.call, []

        def call(function: str, **fields: object) -> None:
            right(function, **fields)
            if function == "fmm_forward":
                forwards.append(function)
                if len(forwards) % 2 == 1:  # without gradients, before each with them
                    fields["out"].mul_(1.1)

        monkeypatch.setattr(library, "call", call)
        problem = wrong_numbers("fmm", torch.device("cpu"), (torch.float32,))
    assert problem is not None and "values without gradients: relative error 0.1" in problem
