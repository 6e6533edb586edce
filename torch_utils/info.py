"""Diagnosis: `python -m torch_utils.info` prints versions, devices, compilers and active ops."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping

import torch

from torch_utils.custom_ops import compiler_report, extensions_dir, missing_tools

_PACKAGES = (
    "numpy",
    "scipy",
    "pillow",
    "click",
    "requests",
    "safetensors",
    "tensorboard",
    "ninja",
    "tqdm",
    "imageio",
    "imageio-ffmpeg",
)


def report() -> str:
    """Return the whole diagnosis as text. Nothing is built or downloaded."""
    sections = {
        "Versions": _versions(),
        "Devices": _devices(),
        "Compilers": compiler_report(),
        "Extensions": _extensions(),
        "Ops (what impl='auto' means on each device)": _ops(),
    }
    return "\n\n".join(_section(title, rows) for title, rows in sections.items())


def _section(title: str, rows: Mapping[str, str]) -> str:
    width = max((len(name) for name in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows.items())])


def _versions() -> dict[str, str]:
    rows = {"python": platform.python_version(), "platform": platform.platform()}
    rows["torch"] = torch.__version__
    for package in _PACKAGES:
        try:
            rows[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            rows[package] = "not installed"
    return rows


def _devices() -> dict[str, str]:
    threads = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    rows = {"cpu": f"{threads}, instructions up to {torch.backends.cpu.get_cpu_capability()}"}
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            memory = properties.total_memory / 2**30
            capability = f"{properties.major}.{properties.minor}"
            rows[f"cuda:{i}"] = f"{properties.name}, {memory:.1f} GiB, capability {capability}"
    else:
        built = torch.version.cuda is not None
        rows["cuda"] = "no GPU is found" if built else "torch was built without CUDA"
    rows["mps"] = "available" if torch.backends.mps.is_available() else "not available"
    return rows


def _extensions() -> dict[str, str]:
    rows = {
        kind: _why_not(uses_cuda) or "can be built"
        for kind, uses_cuda in (("C++", False), ("CUDA", True))
    }
    return {**rows, "kept in": extensions_dir()}


def _why_not(uses_cuda: bool) -> str:
    return "; ".join(missing_tools(uses_cuda, uses_python=False))


def _ops() -> dict[str, str]:
    # Here and not at the top: ops builds on torch_utils, not the other way round.
    try:
        from ops._dispatch import status
    except ImportError as error:
        return {"ops": f"cannot be imported: {error}"}
    rows = {}
    for op, devices in status().items():
        for device, text in devices.items():
            # Said once, above, and not in every line.
            kind, missing = (
                ("CUDA", _why_not(True)) if device == "cuda" else ("C++", _why_not(False))
            )
            if missing:
                text = text.replace(missing, f"{kind} extensions cannot be built, see above")
            rows[f"{op} ({device})"] = text
    return rows


if __name__ == "__main__":
    print(report())
