"""A progress bar on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from dnnlib.logger import Logger
from dnnlib.util import format_time

_LINE_INTERVAL_SEC = 10.0


def progress(
    iterable_or_total: Iterable[Any] | int | None, desc: str = "", unit: str = "it"
) -> Any:
    """Show how far a loop is, on stderr.

    On a terminal this is a tqdm bar. Elsewhere (a log file, a CI job) it is one line about every
    10 seconds and one at the end. Under a `Logger` the bar goes to the terminal only, the plain
    lines also to the log file.

    Args:
        iterable_or_total: What to loop over; or the number of steps, or None if that is unknown,
            for a bar that is moved with `update`.
        desc: What is being done, for example `"Reading images"`.
        unit: Name of one step.

    Returns:
        An object to iterate over, with `update(n=1)`, `set_postfix(**values)`, `close()`; also a
        context manager.
    """
    stream = sys.stderr
    if stream is not None and stream.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            terminal: Any = stream
            while isinstance(terminal, Logger):
                terminal = terminal.stdout
            total, iterable = _split(iterable_or_total)
            return tqdm(
                iterable, total=total, desc=desc, unit=unit, file=terminal, dynamic_ncols=True
            )
    return PlainProgress(iterable_or_total, desc, unit)


def _split(
    iterable_or_total: Iterable[Any] | int | None,
) -> tuple[int | None, Iterable[Any] | None]:
    if iterable_or_total is None or isinstance(iterable_or_total, int):
        return iterable_or_total, None
    try:
        return len(iterable_or_total), iterable_or_total  # type: ignore[arg-type]
    except TypeError:
        return None, iterable_or_total


class PlainProgress:
    """The part of tqdm's interface that is used here, as lines of plain text.

    Args:
        iterable_or_total: As in `progress`.
        desc: Start of each line.
        unit: Name of one step.
        interval_sec: Seconds between two lines.
        file: Where to write; None = `sys.stderr`.
    """

    def __init__(
        self,
        iterable_or_total: Iterable[Any] | int | None,
        desc: str = "",
        unit: str = "it",
        interval_sec: float = _LINE_INTERVAL_SEC,
        file: TextIO | None = None,
    ) -> None:
        self.total, self._iterable = _split(iterable_or_total)
        self.n = 0
        self.desc = desc
        self.unit = unit
        self._file = file
        self._interval_sec = interval_sec
        self._start = self._last_line = time.monotonic()
        self._postfix = ""
        self._closed = False

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise TypeError("this progress has only a total: call update() instead of iterating")
        try:
            for item in self._iterable:
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        """Record that `n` more steps are done."""
        self.n += n
        if time.monotonic() - self._last_line >= self._interval_sec:
            self._print_line()

    def set_description(self, desc: str) -> None:
        """Change the start of the line."""
        self.desc = desc

    def set_postfix(self, **values: Any) -> None:
        """Set what stands at the end of the line, as `name=value`."""
        self._postfix = ", ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in values.items()
        )

    def set_postfix_str(self, text: str) -> None:
        """Set what stands at the end of the line."""
        self._postfix = text

    def close(self) -> None:
        """Print the last line. Further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._start
        fields = [f"{self.desc}:" if self.desc else "", f"{self.n:g}"]
        if self.total:
            fields[1] += f"/{self.total} ({100 * self.n / self.total:.0f}%)"
        fields += [self.unit, f"in {format_time(elapsed)}"]
        if self.n > 0 and elapsed > 0:
            fields.append(f"({self.n / elapsed:.3g} {self.unit}/s)")
            if self.total and self.n < self.total:
                fields.append(f"{format_time((self.total - self.n) * elapsed / self.n)} left")
        if self._postfix:
            fields.append(self._postfix)
        print(*filter(None, fields), file=self._file or sys.stderr, flush=True)
