"""Files and folders: atomic writing, recursive listing, copying."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a temporary name beside `path`; move it to `path` when the block succeeds.

    A reader sees the old file or the whole new one, never a part; after an error or an interrupt
    nothing is left behind. The temporary name keeps the suffix, which decides the format for
    libraries such as Pillow.

    Yields:
        The name to write to, in the same folder (a rename across file systems is not atomic).
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}.{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def list_dir_recursively_with_ignore(
    dir_path: str, ignores: list[str] | None = None, add_base_to_relative: bool = False
) -> list[tuple[str, str]]:
    """List all files below a folder.

    Args:
        dir_path: The folder.
        ignores: fnmatch patterns; a match drops a file, or a folder with all it holds.
        add_base_to_relative: Start the relative names with the name of the folder itself.

    Returns:
        Pairs (absolute name, name relative to `dir_path`), sorted within each folder.
    """
    if not os.path.isdir(dir_path):
        raise NotADirectoryError(f"{dir_path!r} is not a folder")

    def kept(names: list[str]) -> list[str]:
        return [n for n in sorted(names) if not any(fnmatch.fnmatch(n, p) for p in ignores or [])]

    base = os.path.abspath(dir_path)
    result = []
    for root, dirs, files in os.walk(base):
        dirs[:] = kept(dirs)
        for name in kept(files):
            absolute = os.path.join(root, name)
            relative = os.path.relpath(absolute, base)
            if add_base_to_relative:
                relative = os.path.join(os.path.basename(base), relative)
            result.append((absolute, relative))
    return result


def copy_files_and_create_dirs(files: list[tuple[str, str]]) -> None:
    """Copy each (source, destination) pair of files, creating the folders that are missing."""
    for source, destination in files:
        folder = os.path.dirname(destination)
        if folder:
            os.makedirs(folder, exist_ok=True)
        shutil.copyfile(source, destination)
