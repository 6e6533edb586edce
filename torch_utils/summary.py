"""The table of a module's parameters, buffers and output shapes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass
class _Entry:
    """One call of a submodule, at some depth of calls; or one that is only read by others."""

    module: nn.Module
    depth: int
    outputs: list[torch.Tensor]
    params: list[torch.Tensor] = dataclasses.field(default_factory=list)
    buffers: list[torch.Tensor] = dataclasses.field(default_factory=list)


def print_module_summary(
    module: nn.Module, inputs: list[Any], max_nesting: int = 3, skip_redundant: bool = True
) -> Any:
    """Run a module once and print a table of its submodules.

    Submodules that are not called, because another one reads their parameters, are listed before
    the one that they are part of, without an output.

    The run leaves no trace: it is made in eval mode and without gradients, and buffers, training
    flags and the random generators are put back afterwards. So inputs that are not initialised
    cannot spoil running averages.

    Args:
        module: The module.
        inputs: Its positional arguments.
        max_nesting: Depth of submodules to list.
        skip_redundant: Leave out submodules without parameters, buffers or outputs of their own.

    Returns:
        What the module returned.
    """
    assert isinstance(module, nn.Module) and not isinstance(module, torch.jit.ScriptModule)
    assert isinstance(inputs, (tuple, list))
    entries: list[_Entry] = []
    with _untouched(module), _recorded_calls(module, entries):
        outputs = module(*inputs)

    entries = [e for e in _with_uncalled(entries) if e.depth <= max_nesting]
    _keep_first_mention(entries)
    if skip_redundant:
        entries = [e for e in entries if e.params or e.buffers or e.outputs]
    _print_table(_rows(module, entries))
    return outputs


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Switch to eval mode without gradients; afterwards put everything back as it was."""
    training = [(m, m.training) for m in module.modules()]
    buffers = [
        (m, name, buffer, buffer.detach().clone())
        for m in module.modules()
        for name, buffer in m.named_buffers(recurse=False)
    ]
    devices = {t.device for t in (*module.parameters(), *module.buffers()) if t.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        try:
            module.eval()
            yield
        finally:
            for m, name, buffer, copy in buffers:
                buffer.copy_(copy)
                if getattr(m, name) is not buffer:
                    setattr(m, name, buffer)
            for m, flag in training:
                m.training = flag


@contextlib.contextmanager
def _recorded_calls(module: nn.Module, entries: list[_Entry]) -> Iterator[None]:
    """Append an entry for each call of a submodule, at the end of the call."""
    depth = 0

    def before(_mod: nn.Module, _inputs: Any) -> None:
        nonlocal depth
        depth += 1

    def after(mod: nn.Module, _inputs: Any, outputs: Any) -> None:
        nonlocal depth
        depth -= 1
        outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
        entries.append(_Entry(mod, depth, [t for t in outputs if isinstance(t, torch.Tensor)]))

    hooks = [m.register_forward_pre_hook(before) for m in module.modules()]
    hooks += [m.register_forward_hook(after) for m in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _inner_first(module: nn.Module) -> Iterator[nn.Module]:
    """The module and all its submodules, in the order in which calls would end."""
    for child in module.children():
        yield from _inner_first(child)
    yield module


def _with_uncalled(entries: list[_Entry]) -> list[_Entry]:
    """Put what has tensors of its own, and was not called, before the part that it belongs to."""
    listed = {entry.module for entry in entries}
    found = []
    for entry in entries:
        for submodule in _inner_first(entry.module):
            own = (*submodule.parameters(recurse=False), *submodule.buffers(recurse=False))
            if own and submodule not in listed:
                listed.add(submodule)
                found.append(_Entry(submodule, entry.depth + 1, []))
        found.append(entry)
    return found


def _keep_first_mention(entries: list[_Entry]) -> None:
    """Count each tensor where it appears first, which is in the innermost submodule."""
    seen: set[int] = set()
    # Tensors that are dropped from an entry must live on, or Python would reuse their ids.
    alive = []

    def new(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        alive.append(tensors)
        fresh = [t for t in tensors if id(t) not in seen]
        seen.update(id(t) for t in fresh)
        return fresh

    for entry in entries:
        entry.params = new(list(entry.module.parameters()))
        entry.buffers = new(list(entry.module.buffers()))
        entry.outputs = new(entry.outputs)


def _rows(module: nn.Module, entries: list[_Entry]) -> list[list[str]]:
    """Build the cells of the table, header and total included."""
    names = {m: name for name, m in module.named_modules()}
    names[module] = "<top-level>"
    rows = [[type(module).__name__, "Parameters", "Buffers", "Output shape", "Datatype"]]
    rows.append(["---"] * 5)
    param_total = buffer_total = 0
    for entry in entries:
        param_size = sum(t.numel() for t in entry.params)
        buffer_size = sum(t.numel() for t in entry.buffers)
        param_total += param_size
        buffer_total += buffer_size
        counts = [str(param_size or "-"), str(buffer_size or "-")]
        shapes = [[str(list(t.shape)), str(t.dtype).split(".")[-1]] for t in entry.outputs]
        rows.append([names[entry.module], *counts, *(shapes[0] if shapes else ["-", "-"])])
        for i, shape in enumerate(shapes[1:], start=1):
            rows.append([f"{names[entry.module]}:{i}", "-", "-", *shape])
    rows.append(["---"] * 5)
    rows.append(["Total", str(param_total), str(buffer_total), "-", "-"])
    return rows


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()
