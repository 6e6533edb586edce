"""The numbers in the documentation are computed, and its links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_examples_of_the_conventions() -> None:
    result = doctest.testfile(str(ROOT / "docs" / "conventions.md"), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_code_spans_exist(page: Path) -> None:
    named = re.findall(r"`([\w/\-]+/[\w\-]+\.(?:py|md))`", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_tree_of_the_readme() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("```")[1]
    top_level = re.findall(r"^(\S+)", tree, flags=re.MULTILINE)
    assert len(top_level) > 8
    missing = [name for name in top_level if not (ROOT / name).exists()]
    assert not missing
