"""Compile and load C++/CUDA extensions: the only file that knows torch's build tools.

An extension is built on first use into

    $TORCH_EXTENSIONS_DIR or ~/.cache/torch_extensions / <name> / <build key> / <name>_<key>.so

The key hashes everything the binary depends on, so a change of a source, header, flag, of torch,
CUDA, Python or the GPU never meets an old binary. Each process compiles in a folder of its own and
publishes the binary with one rename; a lock of the operating system makes the others wait
meanwhile. Such a lock ends with its process, so an interrupted build cannot block later ones.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch

from torch_utils.compilers import (
    build_environment,
    compiler_report,
    gpu_architectures,
    missing_tools,
)

__all__ = ["ExtensionBuildError", "compiler_report", "get_plugin", "missing_tools", "verbosity"]

verbosity = "brief"
"""How much is printed: "none", "brief" (one line per extension) or "full" (compiler output)."""

_LOG_LINES = 20
_CUDA_SUFFIXES = (".cu", ".cuh")
# Outcome per request; a failed build is not tried again in the same process.
_outcomes: dict[tuple[Any, ...], ModuleType | ExtensionBuildError] = {}


class ExtensionBuildError(RuntimeError):
    """An extension cannot be built or loaded; the message lists causes, tools found, and cures."""


def get_plugin(
    module_name: str,
    sources: Sequence[str],
    headers: Sequence[str] | None = None,
    source_dir: str | None = None,
    **build_kwargs: Any,
) -> ModuleType:
    """Build a pybind11 extension if necessary, and load it.

    Args:
        module_name: A Python identifier, for example `bias_act_plugin`.
        sources: `.cpp` and `.cu` files.
        headers: Files the sources include; they take part in the build key.
        source_dir: Folder that `sources` and `headers` are relative to; None = the current one.
        build_kwargs: Passed on to `torch.utils.cpp_extension.load`, for example
            `extra_cflags` and `extra_cuda_cflags`.

    Returns:
        The loaded module, the same object each time.

    Raises:
        ExtensionBuildError: Tools are missing or the build failed. Remembered: the same request
            raises the same error again at once.
    """
    assert verbosity in ("none", "brief", "full"), f"unknown verbosity {verbosity!r}"
    folder = source_dir or ""
    files = [os.path.abspath(os.path.join(folder, name)) for name in sources]
    header_files = [os.path.abspath(os.path.join(folder, name)) for name in headers or []]
    request = (module_name, tuple(files), tuple(header_files), repr(sorted(build_kwargs.items())))
    if request not in _outcomes:
        _say(f'Setting up PyTorch plugin "{module_name}"... ')
        try:
            _outcomes[request] = _load_or_build(module_name, files, header_files, build_kwargs)
            _say("Done.\n")
        except ExtensionBuildError as error:
            _outcomes[request] = error
            _say("Failed!\n")
    outcome = _outcomes[request]
    if isinstance(outcome, ExtensionBuildError):
        raise outcome
    return outcome


def _load_or_build(
    module_name: str, sources: list[str], headers: list[str], build_kwargs: dict[str, Any]
) -> ModuleType:
    uses_cuda = any(name.endswith(_CUDA_SUFFIXES) for name in sources)
    try:
        key = _build_key(sources, headers, build_kwargs, uses_cuda)
    except OSError as error:
        raise _build_error(module_name, sources, [f"cannot read a source: {error}"]) from error
    name = f"{module_name}_{key[:16]}"
    folder = os.path.join(_extensions_dir(), module_name, key)
    binary = os.path.join(folder, name + (sysconfig.get_config_var("EXT_SUFFIX") or ".so"))

    module = _import_binary(name, binary)
    if module is not None:
        return module
    causes = missing_tools(uses_cuda)
    if causes:
        raise _build_error(module_name, sources, causes)
    try:
        os.makedirs(folder, exist_ok=True)
        with _exclusive(folder) as alone:
            module = _import_binary(name, binary)
            if module is None:
                if alone:
                    # Only an interrupted build can have left these while we hold the lock.
                    for left_over in glob.glob(os.path.join(glob.escape(folder), "build-*")):
                        shutil.rmtree(left_over, ignore_errors=True)
                module = _build(name, binary, sources, build_kwargs)
    except OSError as error:
        cause = f"cannot write to {folder} ({error}); set TORCH_EXTENSIONS_DIR to another folder"
        raise _build_error(module_name, sources, [cause]) from error
    except (RuntimeError, ImportError) as error:
        raise _build_error(module_name, sources, ["the build failed"], str(error)) from error
    return module


def _build(name: str, binary: str, sources: list[str], kwargs: dict[str, Any]) -> ModuleType:
    """Compile in a private folder and publish the binary."""
    from torch.utils import cpp_extension

    build_dir = tempfile.mkdtemp(prefix="build-", dir=os.path.dirname(binary))
    try:
        with build_environment():
            # The returned object, not an import by name: load() does not put every module into
            # sys.modules.
            module = cpp_extension.load(
                name=name,
                sources=sources,
                build_directory=build_dir,
                verbose=verbosity == "full",
                **kwargs,
            )
        published = f"{build_dir}.publish"
        shutil.copyfile(module.__file__, published)
        os.replace(published, binary)
        return module
    finally:
        shutil.rmtree(build_dir, ignore_errors=True)


def _import_binary(name: str, binary: str) -> ModuleType | None:
    """Import a published binary; None if there is none or it cannot be loaded."""
    if not os.path.exists(binary):
        return None
    spec = importlib.util.spec_from_file_location(name, binary)
    assert spec is not None and spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError):
        return None
    return module


def _build_key(
    sources: list[str], headers: list[str], build_kwargs: dict[str, Any], uses_cuda: bool
) -> str:
    """Hash everything the binary depends on."""
    digest = hashlib.sha256()

    def add(*fields: object) -> None:
        for field in fields:
            data = field if isinstance(field, bytes) else repr(field).encode("utf-8")
            digest.update(len(data).to_bytes(8, "little") + data)

    for kind, names in (("source", sources), ("header", headers)):
        for name in names:
            with open(name, "rb") as file:
                add(kind, os.path.basename(name), file.read())
    add(sorted(build_kwargs.items()))
    add(torch.__version__, torch.version.cuda, sys.version, sysconfig.get_platform())
    add([os.environ.get(variable) for variable in ("CXX", "CC", "NVCC_PREPEND_FLAGS")])
    if uses_cuda:
        add(gpu_architectures(), os.environ.get("TORCH_CUDA_ARCH_LIST"))
        add(compiler_report()["nvcc"])
    return digest.hexdigest()[:32]


def _extensions_dir() -> str:
    default = os.path.join(os.path.expanduser("~"), ".cache", "torch_extensions")
    return os.environ.get("TORCH_EXTENSIONS_DIR") or default


@contextlib.contextmanager
def _exclusive(folder: str) -> Iterator[bool]:
    """Hold the lock of `folder`, waiting for it; yields False where there are no such locks.

    Without a lock two processes may compile the same extension at once, each in its own folder.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    with open(os.path.join(folder, "build.lock"), "w") as file:
        locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("(another process is building it, waiting) ")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # some network file systems have none
            locked = False
        yield locked


def _build_error(
    module_name: str, sources: list[str], causes: list[str], log: str = ""
) -> ExtensionBuildError:
    """Collect in one message what one needs to know to get the extension built."""
    lines = [f"cannot build the extension {module_name!r}:"]
    lines += [f"  * {cause}" for cause in causes]
    lines += [f"sources: {', '.join(sources)}", "found on this machine:"]
    lines += [f"  {tool}: {found}" for tool, found in compiler_report().items()]
    # The first error explains the build; what follows it is mostly its consequence.
    log_lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in log_lines if re.search(r"\berror\b", line)][:3]
    if log_lines:
        lines += ["first errors:", *(f"  {line}" for line in errors)] if errors else []
        lines += ["end of the build log:", *(f"  {line}" for line in log_lines[-_LOG_LINES:])]
    lines += [
        "To run without the extension pass impl='ref' to the op: plain PyTorch, slower.",
        "See docs/troubleshooting.md; `python -m torch_utils.info` repeats this diagnosis.",
    ]
    return ExtensionBuildError("\n".join(lines))


def _say(text: str) -> None:
    if verbosity != "none":
        print(text, end="", flush=True)
