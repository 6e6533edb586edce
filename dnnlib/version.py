"""Which version of this project is running."""

from __future__ import annotations

import importlib.metadata
import os
import re

_DISTRIBUTION = "inr-gan"


def project_version() -> str:
    """Return the version of this project: of the checkout, else of the installed package."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        with open(os.path.join(root, "pyproject.toml"), encoding="utf-8") as file:
            text = file.read()
        found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
        if found is not None and f'name = "{_DISTRIBUTION}"' in text:
            return found[1]
    except OSError:
        # Installed: there is no such file beside the packages.
        found = None
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
