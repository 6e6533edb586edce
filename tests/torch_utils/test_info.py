"""`python -m torch_utils.info`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops import _dispatch
from torch_utils import compilers, info


def test_report_names_versions_tools_and_ops() -> None:
    text = info.report()
    for part in (torch.__version__, "C++ compiler", "nvcc", "Python headers", "CUDA", "cpu"):
        assert part in text
    assert "bias_act (cpu)" in text and "upfirdn2d (cuda)" in text


def test_what_cannot_be_built_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = ["no C++ compiler is found", "ninja is not found"]
    rows = {"fmm": {"cpu": f"ref ({'; '.join(lacking)})", "cuda": "cuda (compiled on first use)"}}
    monkeypatch.setattr(_dispatch, "status", lambda: rows)
    monkeypatch.setattr(info, "missing_tools", lambda cuda, uses_python: [] if cuda else lacking)
    text = info.report()
    assert text.count("no C++ compiler is found; ninja is not found") == 1
    assert "fmm (cpu)   ref (C++ extensions cannot be built, see above)" in text
    assert "fmm (cuda)  cuda (compiled on first use)" in text


def test_it_says_where_builds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/some/where")
    assert "kept in  /some/where" in info.report()


def test_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch_utils.info"],
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
        cwd=Path(info.__file__).parents[1],
    )
    assert "Ops (what impl='auto' means" in done.stdout and "cannot be imported" not in done.stdout


def test_missing_tools_of_cuda_include_those_of_cpp() -> None:
    assert set(compilers.missing_tools(False)) <= set(compilers.missing_tools(True))
