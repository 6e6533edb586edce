"""How far a metric is: a bar on a terminal, plain lines with the time left anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dnnlib.progress import progress


class ProgressMonitor:
    """Progress of a computation, and of its parts by way of `sub`.

    Args:
        tag: What is being done; None = show nothing.
        num_items: How many items there are; None = unknown.
        flush_interval: Items between two calls of `progress_fn`; None = call it every time.
        verbose: Whether to show anything.
        progress_fn: Called as `progress_fn(position, pfn_total)`.
        pfn_lo: Position at the start.
        pfn_hi: Position at the end.
        pfn_total: Position at the end of everything.
    """

    def __init__(
        self,
        tag: str | None = None,
        num_items: int | None = None,
        flush_interval: int | None = 1000,
        verbose: bool = False,
        progress_fn: Callable[[float, float], Any] | None = None,
        pfn_lo: float = 0,
        pfn_hi: float = 1000,
        pfn_total: float = 1000,
    ) -> None:
        self.tag = tag
        self.num_items = num_items
        self.verbose = verbose
        self.flush_interval = flush_interval
        self.progress_fn = progress_fn
        self.pfn_lo = pfn_lo
        self.pfn_hi = pfn_hi
        self.pfn_total = pfn_total
        self._flushed_items = 0
        self._bar: Any = None
        self._closed = False
        if progress_fn is not None:
            progress_fn(pfn_lo, pfn_total)

    def update(self, cur_items: int) -> None:
        """Say that `cur_items` items are done altogether."""
        done = self.num_items is not None and cur_items >= self.num_items
        if self.verbose and self.tag is not None and not self._closed:
            if self._bar is None:
                self._bar = progress(self.num_items, desc=f"{self.tag:<19s}", unit="items")
            self._bar.update(cur_items - self._bar.n)
            if done:
                self._bar.close()
                self._closed = True
        new_items = cur_items - self._flushed_items
        if not done and self.flush_interval is not None and new_items < self.flush_interval:
            return
        self._flushed_items = cur_items
        if self.progress_fn is not None and self.num_items:
            part = min(cur_items / self.num_items, 1)
            self.progress_fn(self.pfn_lo + (self.pfn_hi - self.pfn_lo) * part, self.pfn_total)

    def sub(
        self,
        tag: str | None = None,
        num_items: int | None = None,
        flush_interval: int | None = 1000,
        rel_lo: float = 0,
        rel_hi: float = 1,
    ) -> ProgressMonitor:
        """Make the monitor of a part that lies between two fractions of this one."""
        span = self.pfn_hi - self.pfn_lo
        return ProgressMonitor(
            tag=tag,
            num_items=num_items,
            flush_interval=flush_interval,
            verbose=self.verbose,
            progress_fn=self.progress_fn,
            pfn_lo=self.pfn_lo + span * rel_lo,
            pfn_hi=self.pfn_lo + span * rel_hi,
            pfn_total=self.pfn_total,
        )
