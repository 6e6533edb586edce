"""Network snapshots as files: reading and writing, whatever the format and whoever wrote them.

Nothing that a file contains is run (see `torch_utils.persistence.read`).
"""

from __future__ import annotations

import datetime
import hashlib
import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import dnnlib
from dnnlib.version import project_version
from networks import safetensors_file
from torch_utils import persistence
from torch_utils.module_builder import check_plain

NETWORKS = ("G", "D", "G_ema")
"""The keys of a snapshot whose values are networks."""

KEYS = ("training_set_kwargs", *NETWORKS, "augment_pipe")
"""What every snapshot has, in the order in which it is written."""

SUFFIXES = (".pkl", ".safetensors")
"""The file formats, by suffix."""


def read_snapshot(
    source: str, *, option: str = "--network", allow_code: bool = False
) -> dict[str, Any]:
    """Reads a network snapshot.

    Args:
        source: File name or URL.
        option: The option of the command that named the file; error messages begin with it.
        allow_code: Run the file's own code if it contains something unknown. Only for files whose
            author you trust.

    Returns:
        training_set_kwargs (dict or None), G, D, G_ema, augment_pipe (modules of this project, on
        the CPU). What the file does not have is None, except that G stands in for a missing G_ema.

    Raises:
        dnnlib.UserError: The file is missing, damaged, holds no generator, or contains something
            unknown.
    """
    content = _read(source, option)
    try:
        return decode_snapshot(content, allow_code=allow_code)
    except dnnlib.UserError as error:
        raise dnnlib.UserError(f"{option}={source}: {error}") from error


def _read(source: str, option: str) -> bytes:
    try:
        with dnnlib.util.open_url(source) as file:
            return file.read()
    except (OSError, dnnlib.UserError) as error:
        raise dnnlib.UserError(f"{option}={source}: {error}") from error


def read_generator(
    source: str, *, option: str = "--network", allow_code: bool = False
) -> nn.Module:
    """Reads the generator that makes the best images of a snapshot: G_ema.

    Args:
        source, option, allow_code: As `read_snapshot`.

    Returns:
        The generator on the CPU, in evaluation mode, without gradients.

    Raises:
        dnnlib.UserError: As `read_snapshot`.
    """
    G = read_snapshot(source, option=option, allow_code=allow_code)["G_ema"]
    return G.eval().requires_grad_(False)


def decode_snapshot(content: bytes, *, allow_code: bool = False) -> dict[str, Any]:
    """Turns the content of a snapshot file into the dict that `read_snapshot` returns.

    Args:
        content: The whole file.
        allow_code: As `read_snapshot`.

    Raises:
        dnnlib.UserError: As `read_snapshot`, without the name of the option.
    """
    if safetensors_file.is_safetensors(content):
        return _complete(safetensors_file.decode(content))
    return _complete(persistence.read(content, allow_code=allow_code))


def write_snapshot(
    path: str, data: Mapping[str, Any], *, made_from: Mapping[str, str] | None = None
) -> None:
    """Writes a network snapshot, replacing `path` at once when it is complete.

    Args:
        path: File name; its suffix, one of `SUFFIXES`, decides the format.
        data: As `read_snapshot` returns it; keys that are missing are written as None. Other keys
            are written to .pkl files only.
        made_from: From `identify`: the file that `data` was read from. It is noted in .safetensors
            files, beside the versions of this project and of torch and the time.

    Raises:
        dnnlib.UserError: Unknown suffix, something in `data` cannot be written in this format, or
            the file cannot be written.
    """
    check_suffix(path)
    data = {**dict.fromkeys(KEYS), **data}
    try:
        with dnnlib.util.atomic_path(path) as temporary, open(temporary, "wb") as file:
            if path.endswith(".pkl"):
                pickle.dump(data, file)
            else:
                file.write(safetensors_file.encode(data, _provenance(made_from)))
    except OSError as error:
        raise dnnlib.UserError(f"{path!r} cannot be written: {error.strerror}") from error


def identify(source: str, *, option: str = "--network") -> dict[str, str]:
    """Describes a file so that it can be recognised: its name, without folders, and its SHA-256.

    Args:
        source, option: As `read_snapshot`.

    Raises:
        dnnlib.UserError: The file is missing.
    """
    digest = hashlib.sha256(_read(source, option)).hexdigest()
    name = source if dnnlib.util.is_url(source) else os.path.basename(source)
    return {"source": name, "source_sha256": digest}


def _provenance(made_from: Mapping[str, str] | None) -> dict[str, str]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "version": project_version(),
        "torch": torch.__version__,
        "created": now.isoformat(timespec="seconds"),
        **(made_from or {}),
    }


def check_suffix(path: str, option: str = "") -> None:
    """Raises a `dnnlib.UserError` unless the suffix of a new file is one of `SUFFIXES`.

    Args:
        path: File name.
        option: The option that named the file, for the message.
    """
    if os.path.splitext(path)[1] not in SUFFIXES:
        name = option or "the name of a network snapshot"
        raise dnnlib.UserError(f"{name} must end in {' or '.join(SUFFIXES)}, got {path!r}")


def _complete(data: object) -> dict[str, Any]:
    """Checks what a file held and adds the keys that it lacks."""
    if isinstance(data, tuple) and len(data) == 3:
        # TensorFlow's snapshots: G, D and the running average of G.
        data = dict(zip(NETWORKS, data))
    if not isinstance(data, dict):
        raise dnnlib.UserError(
            f"the file holds a {type(data).__name__}, not the dict of a network snapshot"
        )
    data = {**dict.fromkeys(KEYS), **data}
    for name in (*NETWORKS, "augment_pipe"):
        if not isinstance(data[name], (nn.Module, type(None))):
            kind = type(data[name]).__name__
            raise dnnlib.UserError(f"{name!r} in the file is a {kind}, not a network")
    if not isinstance(data["training_set_kwargs"], (dict, type(None))):
        kind = type(data["training_set_kwargs"]).__name__
        raise dnnlib.UserError(f"'training_set_kwargs' in the file is a {kind}, not a dict")
    check_plain(data["training_set_kwargs"])
    if data["G_ema"] is None:
        data["G_ema"] = data["G"]
    if data["G_ema"] is None:
        raise dnnlib.UserError("the file holds no generator: neither G nor G_ema is in it")
    return data
