"""Arrays by name in an .npz file: features of images, projected ws."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

import dnnlib
from dnnlib.errors import FileError


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays; a crash leaves no half file.

    Raises:
        FileError: The file cannot be written.
    """
    try:
        with dnnlib.util.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"cannot write {os.fspath(path)!r}: {reason}") from error


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all arrays of a file. Nothing in it is run: pickled objects are refused.

    Raises:
        ValueError: The file is damaged or is none; the message does not repeat its name.
        FileNotFoundError: It is not there.
    """
    try:
        if os.path.isfile(path) and not zipfile.is_zipfile(path):
            raise ValueError("it is not an .npz file")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except (ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{error}") from error
    except (zipfile.BadZipFile, zlib.error, KeyError, SyntaxError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    except MemoryError as error:
        raise ValueError("its arrays do not fit into the memory") from error
