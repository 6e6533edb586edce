"""Compile and load C++/CUDA extensions: the only file that knows torch's build tools.

There are two kinds: pybind11 modules (`get_plugin`), and libraries of plain C functions
(`get_library`), which include no header of torch and so compile in seconds instead of half a
minute. Both are built on first use into

    $TORCH_EXTENSIONS_DIR or ~/.cache/torch_extensions / <name> / <build key> / <name>_<key>.so

The key hashes everything the binary depends on, so a change of a source, header, flag, of torch,
CUDA, Python or the GPU never meets an old binary. Each process compiles in a folder of its own and
publishes the binary with one rename; a lock of the operating system makes the others wait
meanwhile. Such a lock ends with its process, so an interrupted build cannot block later ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from torch_utils.compilers import (
    build_environment,
    compiler_report,
    gpu_architectures,
    missing_tools,
    processor_features,
)

__all__ = [
    "ExtensionBuildError",
    "compiler_report",
    "extensions_dir",
    "get_library",
    "get_plugin",
    "missing_tools",
    "verbosity",
]

verbosity = "brief"
"""How much is printed: "none", "brief" (one line per extension) or "full" (compiler output)."""

_LOG_LINES = 20
_CUDA_SUFFIXES = (".cu", ".cuh")
# Outcome per request; a failed build is not tried again in the same process.
_outcomes: dict[tuple[Any, ...], Any] = {}


class ExtensionBuildError(RuntimeError):
    """An extension cannot be built or loaded; the message lists causes, tools found, and cures."""


def get_plugin(
    module_name: str,
    sources: Sequence[str],
    headers: Sequence[str] | None = None,
    source_dir: str | None = None,
    **build_kwargs: Any,
) -> Any:
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
    return _get(_import_module, module_name, sources, headers, source_dir, build_kwargs)


def get_library(
    name: str,
    sources: Sequence[str],
    headers: Sequence[str] | None = None,
    source_dir: str | None = None,
    **build_kwargs: Any,
) -> ctypes.CDLL:
    """Build a library of plain C functions if necessary, and load it.

    The sources must not include headers of torch or Python.

    Args: as `get_plugin`.

    Returns:
        The loaded library, the same object each time.

    Raises:
        ExtensionBuildError: As `get_plugin`.
    """
    return _get(_open_library, name, sources, headers, source_dir, build_kwargs)


def _get(
    load: Callable[[str, str], Any],
    extension: str,
    sources: Sequence[str],
    headers: Sequence[str] | None,
    source_dir: str | None,
    build_kwargs: dict[str, Any],
) -> Any:
    """What `load` makes of the name and the path of the binary, once per request."""
    assert verbosity in ("none", "brief", "full"), f"unknown verbosity {verbosity!r}"
    folder = source_dir or ""
    files = [os.path.abspath(os.path.join(folder, name)) for name in sources]
    header_files = [os.path.abspath(os.path.join(folder, name)) for name in headers or []]
    request = (extension, tuple(files), tuple(header_files), repr(sorted(build_kwargs.items())))
    if request not in _outcomes:
        try:
            _outcomes[request] = _load_or_build(load, extension, files, header_files, build_kwargs)
        except ExtensionBuildError as error:
            _outcomes[request] = error
    outcome = _outcomes[request]
    if isinstance(outcome, ExtensionBuildError):
        raise outcome
    return outcome


def _load_or_build(
    load: Callable[[str, str], Any],
    extension: str,
    sources: list[str],
    headers: list[str],
    build_kwargs: dict[str, Any],
) -> Any:
    uses_cuda = any(name.endswith(_CUDA_SUFFIXES) for name in sources)
    try:
        key = _build_key(sources, headers, build_kwargs, uses_cuda)
    except OSError as error:
        raise _build_error(extension, sources, [f"cannot read a source: {error}"]) from error
    name = f"{extension}_{key[:16]}"
    folder = os.path.join(extensions_dir(), extension, key)
    binary = os.path.join(folder, name + (sysconfig.get_config_var("EXT_SUFFIX") or ".so"))

    loaded = _load_published(load, name, binary)
    if loaded is not None:
        return loaded
    causes = missing_tools(uses_cuda, uses_python=load is _import_module)
    if causes:
        raise _build_error(extension, sources, causes)
    _say(f'Setting up PyTorch plugin "{extension}"... ')
    try:
        os.makedirs(folder, exist_ok=True)
        with _exclusive(folder) as alone:
            loaded = _load_published(load, name, binary)
            if loaded is None:
                if alone:
                    # Only an interrupted build can have left these while we hold the lock.
                    for left_over in glob.glob(os.path.join(glob.escape(folder), "build-*")):
                        shutil.rmtree(left_over, ignore_errors=True)
                loaded = _build(load, name, binary, sources, build_kwargs)
    except OSError as error:
        _say("Failed!\n")
        cause = f"cannot use {folder} ({error}); set TORCH_EXTENSIONS_DIR to another folder"
        raise _build_error(extension, sources, [cause]) from error
    except (RuntimeError, ImportError) as error:
        _say("Failed!\n")
        raise _build_error(extension, sources, ["the build failed"], str(error)) from error
    _say("Done.\n")
    return loaded


def _build(
    load: Callable[[str, str], Any],
    name: str,
    binary: str,
    sources: list[str],
    kwargs: dict[str, Any],
) -> Any:
    """Compile in a private folder, load the binary and publish a copy."""
    from torch.utils import cpp_extension

    build_dir = tempfile.mkdtemp(prefix="build-", dir=os.path.dirname(binary))
    try:
        with build_environment():
            cpp_extension.load(
                name=name,
                sources=sources,
                build_directory=build_dir,
                verbose=verbosity == "full",
                is_python_module=load is _import_module,
                **kwargs,
            )
        built = [entry for entry in os.listdir(build_dir) if entry.endswith((".so", ".pyd"))]
        private = os.path.join(build_dir, built[0])
        # Torch appends a version to the name of what this process has built before.
        loaded = load(os.path.basename(private).partition(".")[0], private)
        published = f"{build_dir}.publish"
        shutil.copyfile(private, published)
        os.replace(published, binary)
        return loaded
    finally:
        shutil.rmtree(build_dir, ignore_errors=True)


def _load_published(load: Callable[[str, str], Any], name: str, binary: str) -> Any | None:
    """Load a published binary; None if there is none or it cannot be loaded."""
    if not os.path.exists(binary):
        return None
    try:
        return load(name, binary)
    except (ImportError, OSError):
        return None


def _import_module(name: str, binary: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, binary)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _open_library(_name: str, binary: str) -> ctypes.CDLL:
    return ctypes.CDLL(binary)


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
    # Extensions may be compiled for the very processor; a home folder may serve several.
    add(processor_features())
    if uses_cuda:
        add(gpu_architectures(), os.environ.get("TORCH_CUDA_ARCH_LIST"))
        add(compiler_report()["nvcc"])
    return digest.hexdigest()[:32]


def extensions_dir() -> str:
    """The folder in which builds are kept."""
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
    # Standard output belongs to what a command prints, which may be read by a program.
    if verbosity != "none":
        print(text, end="", file=sys.stderr, flush=True)
