"""`fourier` on the CUDA kernels.

First order: one kernel sums the gradient of the angles over y and over x, small products do the
rest. Second and higher orders: where the backward itself is recorded (`create_graph=True`), it runs
the plain composition of PyTorch operations instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    library, u: Tensor, v: Tensor, rows: Tensor, phase: Tensor | None = None
) -> Tensor:
    """`fourier` on the kernels, for calls that `supports` has no objection to.

    Args:
        library: What `ops._dispatch.kernel_module("fourier", ...)` returns.
        u, v, rows, phase: As of `ops.fourier.api.fourier`.

    Returns:
        Features [2k, H, W] or [N, 2k, H, W]; gradients of any order.
    """
    return NativeFourier.apply(library, u, v, rows, phase)


class NativeFourier(torch.autograd.Function):
    """[sin; cos](rows_x u + rows_y v + phase)."""

    @staticmethod
    def forward(ctx, library, u, v, rows, phase):
        ctx.library = library
        ctx.save_for_backward(u, v, rows, phase)
        *images, k, _two = rows.shape
        out = rows.new_empty([*images, 2 * k, len(v), len(u)])
        library.call("fourier_forward", out=out, **_fields(u, v, rows, phase))
        return out

    @staticmethod
    def backward(ctx, grad):
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_composed_gradients(tensors, needed, grad)
        return None, *_gradients(ctx.library, tensors, needed, grad.contiguous())


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
        "dtype": rows.dtype,
    }


def _gradients(library, tensors, needed, grad: Tensor) -> list[Tensor | None]:
    """First order of u, v, rows and phase, by the kernel."""
    u, v, rows, phase = tensors
    sums = torch.float64 if rows.dtype == torch.float64 else torch.float32
    cols_sum = torch.empty([*rows.shape[:-1], len(u)], dtype=sums, device=rows.device)
    rows_sum = torch.empty([*rows.shape[:-1], len(v)], dtype=sums, device=rows.device)
    library.call(
        "fourier_backward",
        grad=grad,
        col_sums=cols_sum,
        row_sums=rows_sum,
        **_fields(u, v, rows, phase),
    )
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


def _composed_gradients(tensors, needed, grad: Tensor) -> list[Tensor | None]:
    """The same by PyTorch operations, differentiable."""
    with torch.enable_grad():
        # Views, so that a tensor which another one depends on gets its own share only.
        views = [None if t is None else t.view_as(t) for t in tensors]
        inputs = [view for view, need in zip(views, needed) if need]
        gradients = torch.autograd.grad(plain.fourier(*views), inputs, grad, create_graph=True)
    remaining = iter(gradients)
    return [next(remaining) if need else None for need in needed]
