"""Errors that are addressed to the user rather than to the programmer."""

from __future__ import annotations


class UserError(Exception):
    """Something the user asked for cannot be done.

    The message is one sentence that names the offending value and says what would be right.
    Commands made with `dnnlib.cli` print it as `Error: <message>` and exit with code 2, without a
    traceback.
    """


class FileError(UserError, OSError):
    """A `UserError` about a file or a download; also caught by `except OSError`."""


class MissingFileError(UserError, FileNotFoundError):
    """A `UserError` about a file that is not there; also caught by `except FileNotFoundError`."""
