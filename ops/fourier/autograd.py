"""`fourier` on the kernels.

First order: one kernel sums the gradient of the angles over y and over x, small products do the
rest; in C++ all at once, if only rows and phase need gradients. Second and higher orders: where the
backward itself is recorded (`create_graph=True`), it runs the plain composition of PyTorch
operations instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import composed_gradients, native_op
from ops.fourier import plain


def supports(u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None = None) -> str | None:
    """Why the kernels do not take a call of `fourier`; None = they do.

    Args: as of `ops.fourier.api.fourier`.
    """
    tensors = [t for t in (u, v, rows, phase) if t is not None]
    if rows.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"the kernels do not take {rows.dtype}"
    if any(t.dtype != rows.dtype or t.device != rows.device for t in tensors):
        return "tensors of several dtypes or on several devices"
    if any(t.numel() == 0 for t in tensors):
        return "an empty tensor"
    if rows.numel() // 2 > 65535:
        return "more than 65535 rows of frequencies"
    return None


def native_fourier(
    impl: str, u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None = None
) -> Tensor:
    """`fourier` on the kernels, for calls that `supports` has no objection to.

    Args:
        impl: "cuda" or "cpp", as `ops._dispatch.choose` answers.
        u, v, rows, phase: As of `ops.fourier.api.fourier`.

    Returns:
        Features [2k, H, W] or [N, 2k, H, W]; gradients of any order.
    """
    tensors = [t for t in (u, v, rows, phase) if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return NativeFourier.apply(impl, u, v, rows, phase)
    return features(u, v, rows, phase, impl)


class NativeFourier(torch.autograd.Function):
    """[sin; cos](rows_x u + rows_y v + phase)."""

    @staticmethod
    def forward(ctx, impl, u, v, rows, phase):
        ctx.impl = impl
        ctx.save_for_backward(u, v, rows, phase)
        return features(u, v, rows, phase, impl)

    @staticmethod
    def backward(ctx, grad):
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *composed_gradients(plain.fourier, tensors, needed, grad)
        return None, *_gradients(ctx.impl, tensors, needed, grad)


def _fake_features(u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None, impl: str) -> Tensor:
    *images, k, _two = rows.shape
    return rows.new_empty([*images, 2 * k, v.shape[0], u.shape[0]])


@native_op("fourier_features", _fake_features)
def features(
    u: Tensor,  # [W]
    v: Tensor,  # [H]
    rows: Tensor,  # [..., k, 2]
    phase: Tensor | None,  # [..., k]
    impl: str,
) -> Tensor:  # [..., 2k, H, W]
    """`fourier` by the kernel, not differentiable."""
    out = _fake_features(u, v, rows, phase, impl)
    library = _dispatch.kernel_module("fourier", impl)
    library.call("fourier_forward", out=out, **_fields(u, v, rows, phase))
    return out


def _fake_angle_sums(
    grad: Tensor, u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None, impl: str
) -> tuple[Tensor, Tensor]:
    exact = torch.float64 if rows.dtype == torch.float64 else torch.float32
    images = rows.shape[:-1]
    return (
        rows.new_empty([*images, u.shape[0]], dtype=exact),
        rows.new_empty([*images, v.shape[0]], dtype=exact),
    )


@native_op("fourier_angle_sums", _fake_angle_sums)
def angle_sums(
    grad: Tensor,  # [..., 2k, H, W]
    u: Tensor,  # [W]
    v: Tensor,  # [H]
    rows: Tensor,  # [..., k, 2]
    phase: Tensor | None,  # [..., k]
    impl: str,
) -> tuple[Tensor, Tensor]:
    """The gradient of the angles, summed over y, [..., k, W], and over x, [..., k, H]."""
    cols_sum, rows_sum = _fake_angle_sums(grad, u, v, rows, phase, impl)
    _dispatch.kernel_module("fourier", impl).call(
        "fourier_backward",
        grad=grad.contiguous(),
        col_sums=cols_sum,
        row_sums=rows_sum,
        **_fields(u, v, rows, phase),
    )
    return cols_sum, rows_sum


def _fake_row_gradients(
    grad: Tensor, u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None, impl: str
) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), rows.new_empty(rows.shape[:-1])


@native_op("fourier_row_gradients", _fake_row_gradients)
def row_gradients(
    grad: Tensor,  # [..., 2k, H, W]
    u: Tensor,  # [W]
    v: Tensor,  # [H]
    rows: Tensor,  # [..., k, 2]
    phase: Tensor | None,  # [..., k]
    impl: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of rows, [..., k, 2], and of the phase, [..., k], where the library has them."""
    of_rows, of_phase = _fake_row_gradients(grad, u, v, rows, phase, impl)
    _dispatch.kernel_module("fourier", impl).call(
        "fourier_row_gradients",
        grad=grad.contiguous(),
        grad_rows=of_rows,
        grad_phase=of_phase,
        **_fields(u, v, rows, phase),
    )
    return of_rows, of_phase


def _fields(u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None) -> dict:
    """The inputs as fields of the parameters."""
    return {
        "u": u.contiguous(),
        "v": v.contiguous(),
        "rows": rows.contiguous(),
        "phase": None if phase is None else phase.contiguous(),
        "n": len(rows) if rows.ndim == 3 else 1,
        "num_rows": rows.shape[-2],
        "height": len(v),
        "width": len(u),
        "threads": torch.get_num_threads(),
        "dtype": rows.dtype,
    }


def _gradients(impl: str, tensors, needed, grad: Tensor) -> list[Tensor | None]:
    """First order of u, v, rows and phase, by the kernel."""
    u, v, rows, phase = tensors
    library = _dispatch.kernel_module("fourier", impl)
    if library.has("fourier_row_gradients") and not (needed[0] or needed[1]):
        found = row_gradients(grad, u, v, rows, phase, impl)
        return [None, None, *(part if need else None for part, need in zip(found, needed[2:]))]
    cols_sum, rows_sum = angle_sums(grad, u, v, rows, phase, impl)
    sums = cols_sum.dtype
    frequencies = rows.to(sums).flatten(0, -2)
    result = [None, None, None, None]
    if needed[0]:
        result[0] = frequencies[:, 0] @ cols_sum.flatten(0, -2)
    if needed[1]:
        result[1] = frequencies[:, 1] @ rows_sum.flatten(0, -2)
    if needed[2]:
        result[2] = torch.stack([cols_sum @ u.to(sums), rows_sum @ v.to(sums)], dim=-1)
    if needed[3]:
        result[3] = cols_sum.sum(-1)
    return [None if part is None else part.to(rows.dtype) for part in result]
