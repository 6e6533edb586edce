"""Precision of inference: what `--dtype` names, and what a device computes fastest."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import torch

import dnnlib
from dnnlib import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The names of `--dtype` other than `auto`."""

# Of x86 and of ARM, as both torch and the Linux kernel spell them.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_CPUINFO = Path("/proc/cpuinfo")


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a precision on the command line, "bf16"; other dtypes: torch's name."""
    names = {value: name for name, value in DTYPES.items()}
    return names.get(dtype, str(dtype).rpartition(".")[2])


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype | None:
    """Turn the value of `--dtype` into the precision to compute in, with a line on stderr where
    that is not simply what the user wrote, or slower than another one.

    Args:
        name: "fp32", "bf16", "fp16", "auto" (the fastest that the device computes natively), or
            None (not given).
        device: Where the network computes.

    Returns:
        The argument `dtype` of a generator; None = each block's own precision, which is float32
        everywhere but on CUDA.

    Raises:
        UserError: Another name.
    """
    if name is None:
        return None
    if name == "auto":
        dtype, why = fastest_dtype(device)
        dnnlib.cli.note(f"Precision: {dtype_name(dtype)} (--dtype=auto; {why})")
        return dtype
    if name not in DTYPES:
        raise UserError(f"unknown precision {name!r}; use {', '.join(DTYPES)} or auto")
    dtype = DTYPES[name]
    if device.type == "cpu" and dtype == torch.float16:
        dnnlib.cli.warn("--dtype=fp16 is not for CPUs; this is computed in fp32.")
        return torch.float32
    if dtype == torch.bfloat16 and not _has_bfloat16(device):
        faster = dtype_name(fastest_dtype(device)[0])
        dnnlib.cli.warn(
            f"--dtype=bf16: {_name(device)} has no instructions for bfloat16; --dtype={faster} is "
            "likely to be faster."
        )
    return dtype


def fastest_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """The precision in which a device multiplies matrices fastest, and why, for people.

    float16 on GPUs (bfloat16 is no faster there, and less exact), on CUDA from compute capability
    7.0 on; bfloat16 on CPUs that have instructions for it; else float32.
    """
    if device.type == "cpu":
        if found := cpu_bfloat16():
            return torch.bfloat16, f"the CPU has {found}"
        return torch.float32, "the CPU has no instructions for bfloat16"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (7, 0):
        return torch.float32, f"{_name(device)} has no tensor cores"
    return torch.float16, _name(device)


@functools.lru_cache(maxsize=1)
def cpu_bfloat16() -> str | None:
    """The CPU's instructions for products of bfloat16, for example "amx_bf16"; None = it has none.

    An old torch does not know; then Linux is asked, and on other systems the answer is None.
    """
    flags: set[str] = set()
    if hasattr(torch.cpu, "get_capabilities"):
        flags = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    elif _CPUINFO.exists():
        # The line is called "flags" on x86 and "Features" on ARM.
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
        line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
        flags = set(line[1].split()) if line else set()
    return next((flag for flag in _BFLOAT16_FLAGS if flag in flags), None)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return cpu_bfloat16() is not None
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return {"cpu": "the CPU", "mps": "Apple's GPU"}.get(device.type, device.type)
