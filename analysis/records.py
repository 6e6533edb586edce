"""Numbers of an experiment as files and as text. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import dnnlib
from dnnlib.errors import FileError


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write an object as JSON; a crash leaves no half file.

    Raises:
        FileError: The file cannot be written.
    """
    _write_text(path, json.dumps(data, indent=2) + "\n")


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV with a header, columns in the order of the first row.

    Args:
        path: The file.
        rows: At least one, all with the same keys.

    Raises:
        FileError: The file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write_text(path, text.getvalue())


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text: the first column to the left, the others to the right.

    Args:
        rows: The first one is the header, under which a line is drawn.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _write_text(path: str | os.PathLike[str], text: str) -> None:
    try:
        with (
            dnnlib.util.atomic_path(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            file.write(text)
    except OSError as error:
        raise FileError(f"cannot write {os.fspath(path)!r}: {error.strerror}") from error
