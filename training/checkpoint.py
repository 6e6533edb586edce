"""The complete state of a training run in one file, for going on exactly where it stopped.

Unlike the network snapshot, which is a pickle of modules for other programs, this is a dictionary
of ``state_dict()`` results that ``torch.load(..., weights_only=True)`` reads: loading it cannot run
code. Layout: ``{"version": 1, "parts": {name: state_dict}, "counters": {name: number}}``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

import torch

from dnnlib import UserError
from dnnlib.util import atomic_path

VERSION = 1


class Stateful(Protocol):
    """Modules, optimisers, the ADA controller, the EMA: whatever can describe its own state."""

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors, numbers, strings, lists and dictionaries of these."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take over a state that `state_dict` returned."""


def write_atomically(path: str, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that takes the place of ``path`` only when it is complete."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        write(file)
        file.flush()
        # Without this a power failure could leave the new name on an empty file.
        os.fsync(file.fileno())


def save_checkpoint(
    path: str, parts: Mapping[str, Stateful | None], counters: Mapping[str, int | float]
) -> None:
    """Write the state of all parts; a part that is None is left out.

    Args:
        path: File name; replaced atomically.
        parts: Name to object, e.g. G, D, G_ema, their optimisers, ADA controller, loss.
        counters: Numbers such as cur_nimg, cur_tick, batch_idx.
    """
    state = {
        "version": VERSION,
        "parts": {name: part.state_dict() for name, part in parts.items() if part is not None},
        "counters": dict(counters),
    }
    write_atomically(path, lambda file: torch.save(state, file))


def load_checkpoint(
    path: str,
    parts: Mapping[str, Stateful | None],
    device: str | torch.device = "cpu",
) -> dict[str, int | float]:
    """Restore all parts from a file of `save_checkpoint` and return its counters.

    Args:
        path: File name.
        parts: The objects to restore, under the names they were saved with.
        device: Where the tensors are put before the parts copy them.

    Raises:
        UserError: The file is missing, damaged, of another version, or holds other parts.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}.") from error
    except Exception as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        found = state.get("version") if isinstance(state, dict) else type(state).__name__
        raise UserError(f"{path} is a checkpoint of version {found}; version {VERSION} is needed.")
    wanted = {name: part for name, part in parts.items() if part is not None}
    if wanted.keys() != state["parts"].keys():
        raise UserError(
            f"{path} holds {', '.join(sorted(state['parts']))}, "
            f"but this run consists of {', '.join(sorted(wanted))}."
        )
    for name, part in wanted.items():
        part.load_state_dict(state["parts"][name])
    return state["counters"]
