"""What a number depends on besides the network: noted with every result."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import dnnlib
from dnnlib.version import project_version
from metrics.options import MetricOptions


def collect(opts: MetricOptions) -> dnnlib.EasyDict:
    """Describe a computation that has ended.

    Returns:
        detectors ({name: SHA-256}); dataset, dataset_fingerprint, resize_filter, xflip (of the real
        images) and num_real, if there were any; num_fake; seed; psi (truncation_psi, 1 = none);
        G_kwargs; dtype (of the generator); tf32 (whether matrix products were allowed to round to
        10 bits); device; version (of this project); torch.
    """
    G_kwargs = {name: _plain(value) for name, value in opts.G_kwargs.items()}
    noted = dict(opts.provenance)
    if "dtype" not in noted:
        given = (opts.G_kwargs, opts.device)
        noted["dtype"] = None if opts.G is None else generator_dtype(opts.G, *given)
    return dnnlib.EasyDict(
        **noted,
        seed=opts.seed,
        psi=G_kwargs.get("truncation_psi", 1),
        G_kwargs=G_kwargs,
        tf32=torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        device=device_name(opts.device),
        version=project_version(),
        torch=torch.__version__,
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)


def generator_dtype(G: nn.Module, G_kwargs: dict[str, Any], device: torch.device) -> str:
    """Return the precision that a generator computes in, for example "float32" or
    "float16+float32" if some blocks are in half precision."""
    dtypes = {str(p.dtype).removeprefix("torch.") for p in G.parameters() if p.is_floating_point()}
    if G_kwargs.get("force_fp32", False):
        return "+".join(sorted(dtypes))
    dtype = G_kwargs.get("dtype")
    # Blocks in half precision use float32 where there is no CUDA.
    half = device.type == "cuda" and any(getattr(m, "use_fp16", False) for m in G.modules())
    if dtype is None and half:
        dtype = torch.float16
    # Nothing computes in float16 on a CPU.
    if dtype is not None and (dtype, device.type) != (torch.float16, "cpu"):
        dtypes.add(str(dtype).removeprefix("torch."))
    return "+".join(sorted(dtypes))


def device_name(device: torch.device) -> str:
    """Return "cpu", or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
