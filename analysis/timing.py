"""Times of functions on any device: in turns, medians, launches captured where that can be done."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

Function = Callable[[], object]
Context = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        median, best, worst: Over the samples.
        calls: Calls in a sample.
        how: "graph": replays of a CUDA graph, free of the time that Python takes. "calls": calls.
        note: Why there is no graph where one was asked for, else "".
    """

    median: float
    best: float
    worst: float
    calls: int
    how: str
    note: str = ""


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def captured(function: Function, device: torch.device) -> tuple[Function, str]:
    """A function that replays the launches of `function` from a CUDA graph.

    Returns:
        The replay and "", or `function` itself and the reason why it cannot be captured.
    """
    if device.type != "cuda":
        return function, "only CUDA has graphs"
    try:
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # whatever is built, loaded or chosen at the first calls
                function()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        graph.replay()
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        torch.cuda.synchronize(device)
        return function, f"not captured: {first_line(error)}"
    return graph.replay, ""


def interleaved(
    functions: Mapping[str, Function],
    device: torch.device,
    *,
    samples: int = 7,
    sample_seconds: float = 0.02,
    graphs: bool = False,
    contexts: Mapping[str, Context] | None = None,
) -> dict[str, Timing]:
    """Times functions in turns, so that a machine that slows down slows all of them.

    Args:
        functions: Name -> function.
        device: Whose queue is empty when the clock is read.
        samples: How often each function's turn comes.
        sample_seconds: About how long a turn takes; short functions are called several times. 0 =
            one call.
        graphs: Whether to replay CUDA graphs instead of calling.
        contexts: Name -> what is entered, outside the clock, for the turns of a function.

    Returns:
        Name -> time of one call.
    """
    contexts = contexts or {}
    ready: dict[str, tuple[Function, Context, int, str]] = {}
    for name, function in functions.items():
        context = contexts.get(name, contextlib.nullcontext)
        note = ""
        with context():
            if graphs:
                function, note = captured(function, device)
            function()
            calls = 1
            if sample_seconds > 0:
                seconds = _sample(function, device, 1)
                if seconds < sample_seconds:
                    seconds = min(seconds, _sample(function, device, 1))
                calls = max(1, round(sample_seconds / seconds))
        ready[name] = (function, context, calls, note)
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(samples):
        for name, (function, context, calls, _note) in ready.items():
            with context():
                times[name].append(_sample(function, device, calls))
    return {
        name: Timing(
            median=statistics.median(values),
            best=min(values),
            worst=max(values),
            calls=ready[name][2],
            how="graph" if graphs and not ready[name][3] else "calls",
            note=ready[name][3],
        )
        for name, values in times.items()
    }


def _sample(function: Function, device: torch.device, calls: int) -> float:
    """Seconds of one of so many calls; never zero."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize(device)
    return max(time.perf_counter() - start, 1e-9) / calls


def peak_memory(function: Function, device: torch.device) -> int | None:
    """Bytes that a call needs at most, beyond what was there before it.

    On CUDA what PyTorch's allocator hands out; on a CPU what the system has put into memory.

    Returns:
        None where that cannot be measured.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return _host_peak(function) if sys.platform == "linux" else None


def _host_peak(function: Function) -> int | None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # what is free but kept would hide as much of the call's own
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # the peak starts anew from here
    except OSError:
        return None
    before = _memory_line("VmRSS")
    function()
    after = _memory_line("VmHWM")
    return None if before is None or after is None else max(0, after - before)


def _memory_line(name: str) -> int | None:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".strip()
