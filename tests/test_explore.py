"""explore.py: the group of commands, what all of them share."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import explore

ROOT = Path(explore.__file__).parent


def test_help_lists_every_command_with_a_sentence() -> None:
    result = CliRunner().invoke(explore.main, ["--help"])
    assert result.exit_code == 0
    for name in explore.COMMANDS:
        lines = [line for line in result.output.splitlines() if line.split()[:1] == [name]]
        assert len(lines) == 1 and len(lines[0].split()) > 3


@pytest.mark.parametrize("name", explore.COMMANDS)
def test_every_command_has_help_of_its_own(name: str) -> None:
    result = CliRunner().invoke(explore.main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: explore {name} [OPTIONS]" in result.output
    assert "--outdir" in result.output or "--output" in result.output


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, explore\n"
        "try:\n    explore.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), 'loaded'\n"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert time.perf_counter() - start < 5  # about 0.2 s on an idle machine


def test_a_command_is_imported_only_when_it_is_asked_for() -> None:
    code = (
        "import sys, explore\n"
        "assert not any(name.startswith('analysis') for name in sys.modules)\n"
        "assert explore.main.get_command(None, 'cost').name == 'cost'\n"
        "assert 'analysis.commands.cost' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_an_unknown_command_is_refused_in_one_sentence() -> None:
    result = CliRunner().invoke(explore.main, ["draw"])
    assert result.exit_code == 2
    assert result.output.strip() == "Error: No such command 'draw'."
