"""`inr_layer` on CPUs in C++: which calls it takes; gradients as in `autograd.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ops.inr_layer.autograd import native_layer
from ops.inr_layer.cpu import Chain
from torch_utils.precision import cpu_bfloat16


def supports(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,
    **options: Any,
) -> str | None:
    """Why the C++ functions do not take a call of `inr_layer`; None = they do.

    Args: as of `ops.inr_layer.api.inr_layer`.
    """
    reasons = Chain([weight], [bias], x=x, **options).unsupported()
    taps = options["taps"] or ()
    if any(axis.weight.requires_grad for axis in taps):
        reasons.append("taps carry a gradient")
    if torch.is_autocast_enabled("cpu"):
        reasons.append("autocast chooses the precision")
    if options["gain"] is not None and not options["gain"] > 0:
        reasons.append("the gain must be positive")
    if options["act"] == "linear" and options["taps"] is None and options["coords"] is None:
        reasons.append("it is a plain product")
    if weight.dtype == torch.bfloat16 and cpu_bfloat16():
        reasons.append("the processor multiplies bfloat16, which PyTorch's products make use of")
    return reasons[0] if reasons else None


def cpu_layer(
    _library: Any,
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None = None,  # [N, I, h, w]
    bias: Tensor | None = None,  # [O] or [N, O]
    **options: Any,
) -> Tensor:  # [N, O, H, W]
    """`inr_layer` in C++, for calls that `supports` has no objection to.

    Args: as of `ops.inr_layer.api.inr_layer`, after the C++ library.
    """
    return native_layer("cpp", weight, x, bias, **options)
