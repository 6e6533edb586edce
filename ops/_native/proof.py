"""What a CUDA kernel has to show on a GPU before its first use: the numbers of its definition.

A kernel may be compiled by a newer nvcc, for a newer GPU, than any it was tried with. A wrong image
is worse than an error, so before the first call of an op in a process a few tiny ones are made, and
their values and gradients compared with the definition in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

CASES_PER_OP = 6
"""Calls of `ops.registry` that are tried, in each precision."""

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Relative RMS errors that are accepted: wide, for it is wrong kernels that are looked for."""


def wrong_numbers(op: str, device: torch.device, dtypes: Sequence[torch.dtype]) -> str | None:
    """Compares the first small calls of an op with its definition.

    Args:
        op: Name of the op's folder.
        device: Where to run it, as impl="auto" does.
        dtypes: Precisions to try, those of `TOLERANCES` among them.

    Returns:
        None, or one sentence about the first call whose numbers are wrong.
    """
    from ops.registry import CASES  # imports every op, this one too

    cases = itertools.islice((case for case in CASES if case.op == op and case.small), CASES_PER_OP)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        for case, dtype in itertools.product(list(cases), dtypes):
            if dtype not in TOLERANCES:
                continue
            inputs = case.inputs(dtype, device)
            exact = {name: tensor.cpu().double() for name, tensor in inputs.items()}
            actual = _values_and_gradients(case.bind(device=device), inputs, case.constant)
            expected = _values_and_gradients(case.bind(reference=True), exact, case.constant)
            for name, tensor in actual.items():
                error = _relative_error(tensor, expected[name])
                if not error <= TOLERANCES[dtype]:
                    return (
                        f"the kernel of {op} gives other numbers on {device} than its definition "
                        f"(call {case}, {str(dtype)[6:]}, {name}: relative error {error:.2g})"
                    )
    return None


def _values_and_gradients(
    function: Callable[..., Tensor], inputs: dict[str, Tensor], constant: Sequence[str]
) -> dict[str, Tensor]:
    leaves: dict[str, Any] = {
        name: tensor.detach().clone().requires_grad_(name not in constant)
        for name, tensor in inputs.items()
    }
    with torch.no_grad():
        # Inference may have kernels of its own.
        without = function(**leaves)
    values = function(**leaves)
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    # A fixed cotangent of both signs, the same on every device and in every precision.
    cotangent = torch.linspace(-1, 1, values.numel(), dtype=torch.float64).reshape(values.shape)
    gradients = torch.autograd.grad(
        values, list(wanted.values()), cotangent.to(values.device, values.dtype)
    )
    found = {f"gradient of {name}": gradient for name, gradient in zip(wanted, gradients)}
    return {"values": values.detach(), "values without gradients": without, **found}


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    difference = (actual.cpu().double() - expected).square().mean().sqrt().item()
    scale = expected.square().mean().sqrt().item()
    return difference / scale if scale > 0 else difference
