"""Writing a folder or zip archive so that it appears complete or not at all. No torch."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from training.dataset_files import DatasetError

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes, whenever written


class AtomicOutput:
    """Files are written under a hidden name beside the destination; `commit` renames.

    Leaving the `with` block without `commit`, by error or Ctrl-C, removes what was written, and
    parent folders made for it.

    Args:
        dest: Destination; ending in .zip = stored (uncompressed) archive, which may replace an
            older one; otherwise a folder, which must be missing or empty.

    Raises:
        DatasetError: if the destination is unusable. `OSError` passes through.
    """

    def __init__(self, dest: str) -> None:
        self._dest = Path(os.path.abspath(dest))
        self._as_zip = self._dest.suffix.lower() == ".zip"
        self._temp = self._dest.with_name(f".{self._dest.name}.{os.getpid()}.partial")
        self._made_parents: list[Path] = []
        self._file: BinaryIO | None = None
        self._zip: zipfile.ZipFile | None = None
        if self._as_zip and self._dest.is_dir():
            raise DatasetError(f'destination "{dest}" is a folder, not a .zip file')
        if not self._as_zip and self._dest.exists():
            if not self._dest.is_dir():
                raise DatasetError(f'destination "{dest}" is a file, but neither .zip nor folder')
            if any(self._dest.iterdir()) or os.path.ismount(self._dest):
                raise DatasetError(f'destination folder "{dest}" must be new or empty')

    def __enter__(self) -> AtomicOutput:
        try:
            missing = [parent for parent in self._dest.parents if not parent.exists()]
            for parent in reversed(missing):
                parent.mkdir()
                self._made_parents.append(parent)
            if self._as_zip:
                self._file = open(self._temp, "xb")  # closed by `_close`
                self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
            else:
                self._temp.mkdir()
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, name: str, data: bytes) -> None:
        """Adds one file under its relative name with "/" as separator."""
        if self._zip is not None:
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.create_system = 3  # the same on every platform
            info.external_attr = 0o644 << 16
            self._zip.writestr(info, data)
        else:
            path = self._temp / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def commit(self) -> None:
        """Completes the result and gives it its name."""
        self._close(sync=True)
        if not self._as_zip and self._dest.exists():
            self._dest.rmdir()  # known to be empty; not every platform renames onto a folder
        os.replace(self._temp, self._dest)
        self._made_parents.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._discard()

    def _close(self, sync: bool) -> None:
        if self._zip is not None:
            self._zip.close()
            self._zip = None
        if self._file is not None:
            if sync:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _discard(self) -> None:
        """Removes whatever `commit` has not renamed."""
        try:
            self._close(sync=False)
        except OSError:
            self._file = None  # a full disk lets the archive's directory fail; it goes away anyway
        self._temp.unlink(missing_ok=True) if self._as_zip else shutil.rmtree(self._temp, True)
        for parent in reversed(self._made_parents):
            if not any(parent.iterdir()):
                parent.rmdir()
