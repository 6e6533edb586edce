"""A copy of everything that is printed, in a file."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Logger:
    """Take the place of `sys.stdout` and `sys.stderr`; write to the old stdout and to a file.

    Use it as a context manager, or call `close`. Everything a text stream has and that is not
    defined here (`encoding`, `isatty`, `fileno`, `buffer`, ...) is answered by the old stdout, so
    that libraries which ask keep working.

    Args:
        file_name: The log file; None = no file.
        file_mode: Mode for opening it; "w" starts afresh, "a" appends.
        should_flush: Flush after each write, so that the file is complete after a crash.
    """

    def __init__(
        self, file_name: str | None = None, file_mode: str = "w", should_flush: bool = True
    ) -> None:
        self.file = None
        if file_name is not None:
            self.file = open(file_name, file_mode, encoding="utf-8")  # noqa: SIM115
        self.should_flush = should_flush
        self.stdout = sys.stdout
        self.stderr = sys.stderr
        sys.stdout = self  # type: ignore[assignment]
        sys.stderr = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        # Read from __dict__: while __init__ has not run, self.stdout would come back here.
        if "stdout" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.stdout, name)

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def isatty(self) -> bool:
        """Tell whether the old stdout is a terminal."""
        return self.stdout.isatty()

    def write(self, text: str | bytes) -> int:
        """Write text; bytes are decoded as UTF-8. Returns the number of characters."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        if len(text) == 0:
            return 0
        if self.file is not None:
            self.file.write(text)
        self.stdout.write(text)
        if self.should_flush:
            self.flush()
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each string; no line ends are added."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the file and the old stdout."""
        if self.file is not None:
            self.file.flush()
        self.stdout.flush()

    def close(self) -> None:
        """Flush, close the file, and put the old streams back where this object is still active."""
        self.flush()
        if sys.stdout is self:
            sys.stdout = self.stdout
        if sys.stderr is self:
            sys.stderr = self.stderr
        if self.file is not None:
            self.file.close()
            self.file = None
