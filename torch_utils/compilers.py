"""What is there to compile extensions with, and what is missing."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator

import torch

_NOT_FOUND = "not found"


@functools.lru_cache(maxsize=1)
def compiler_report() -> dict[str, str]:
    """Describe the compilers and GPUs of this machine.

    Returns:
        Texts under the keys "C++ compiler", "ninja", "Python headers", "nvcc", "torch" and "GPU";
        what is absent reads "not found". Asked once per process.
    """
    cxx = _find_cxx()
    ninja = _find_ninja()
    nvcc = _find_nvcc()
    cuda = torch.version.cuda
    gpus = [
        f"{torch.cuda.get_device_name(i)} (compute capability {architecture})"
        for i, architecture in enumerate(gpu_architectures())
    ]
    return {
        "C++ compiler": _with_version(cxx, r"(?m)^(.+)$"),
        "ninja": _with_version(ninja, r"([\d.]+\S*)"),
        "Python headers": _python_headers() or _NOT_FOUND,
        "nvcc": _with_version(nvcc, r"release ([\d.]+)"),
        "torch": f"{torch.__version__}, built {f'for CUDA {cuda}' if cuda else 'without CUDA'}",
        "GPU": ", ".join(gpus) or _NOT_FOUND,
    }


def missing_tools(uses_cuda: bool, uses_python: bool = True) -> list[str]:
    """List what this machine lacks to build an extension, one sentence each; empty = nothing.

    Args:
        uses_cuda: Whether the extension has `.cu` sources.
        uses_python: Whether it is a Python module, not a library of C functions.
    """
    missing = []
    if _find_cxx() is None:
        missing.append("no C++ compiler is found: install g++ or clang++, or set CXX")
    if _find_ninja() is None:
        missing.append("ninja is not found: pip install ninja")
    if importlib.util.find_spec("setuptools") is None:
        missing.append("setuptools is not found: pip install setuptools")
    if uses_python and _python_headers() is None:
        missing.append("Python.h is not found: install the package python3-dev")
    if uses_cuda:
        if torch.version.cuda is None:
            missing.append("this torch was built without CUDA: install a CUDA build of it")
        elif _find_nvcc() is None:
            toolkit = f"the CUDA toolkit {torch.version.cuda}"
            missing.append(f"nvcc is not found: install {toolkit}, or set CUDA_HOME")
        if not gpu_architectures() and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
            missing.append("no GPU to compile for is found: set TORCH_CUDA_ARCH_LIST")
    return missing


def gpu_architectures() -> list[str]:
    """List the compute capability of each visible GPU, as `9.0`."""
    if not torch.cuda.is_available():
        return []
    capabilities = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    return [f"{major}.{minor}" for major, minor in capabilities]


@functools.lru_cache(maxsize=1)
def processor_features() -> str:
    """What the processor can do, as far as the system tells; for telling processors apart."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if line.startswith(("flags", "Features", "model name"))]
    except OSError:
        return platform.processor()
    return "".join(sorted(set(lines)))


@contextlib.contextmanager
def build_environment() -> Iterator[None]:
    """Inside the block PATH also leads to the ninja installed beside this Python.

    Torch looks for it on PATH only, where it is missing if the virtual environment is used without
    being activated.
    """
    before = os.environ.get("PATH")
    ninja = _find_ninja()
    if ninja is not None and shutil.which("ninja") is None:
        os.environ["PATH"] = os.pathsep.join(filter(None, [os.path.dirname(ninja), before]))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PATH", None)
        else:
            os.environ["PATH"] = before


def _find_cxx() -> str | None:
    if os.environ.get("CXX"):
        # CXX may hold a launcher and flags: "ccache g++ -m64"
        return shutil.which(os.environ["CXX"].split()[0])
    return shutil.which("cl" if os.name == "nt" else "c++")


def _find_ninja() -> str | None:
    beside_python = os.path.join(os.path.dirname(os.path.abspath(sys.executable)))
    return shutil.which("ninja") or shutil.which("ninja", path=beside_python)


def _find_nvcc() -> str | None:
    try:
        from torch.utils.cpp_extension import CUDA_HOME
    except ImportError:  # setuptools is missing
        CUDA_HOME = os.environ.get("CUDA_HOME")
    if CUDA_HOME is None:  # also where torch is built without CUDA, whatever there is
        return shutil.which("nvcc")
    return shutil.which("nvcc", path=os.path.join(CUDA_HOME, "bin"))


def _python_headers() -> str | None:
    folder = sysconfig.get_path("include")
    return folder if os.path.exists(os.path.join(folder, "Python.h")) else None


def _with_version(program: str | None, pattern: str) -> str:
    """Return `<version> (<path>)`; the version is what `pattern` finds in `--version`."""
    if program is None:
        return _NOT_FOUND
    arguments = [] if os.path.basename(program).startswith("cl.") else ["--version"]
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"{program} (does not run)"
    match = re.search(pattern, done.stdout or done.stderr)
    return f"{match[1].strip()} ({program})" if match else program
