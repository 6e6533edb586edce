"""The files that install the project agree with each other and with the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="part of Python since 3.11, as the pins need")

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
SECTIONS = ("core", "demo", "dev")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins() -> dict[str, dict[str, str]]:
    """Section -> package -> version of requirements.txt."""
    found: dict[str, dict[str, str]] = {}
    for line in text("requirements.txt").splitlines():
        if match := re.match(r"# (core|demo|dev): ", line):
            section = found.setdefault(match[1], {})
        elif line and not line.startswith("#"):
            name, version = re.fullmatch(r"([\w\-.]+)==([\w.]+)", line).groups()
            assert name not in section, f"{name} is pinned twice"
            section[name] = version
    return found


def project() -> dict:
    return tomllib.loads(text("pyproject.toml"))


def ranges() -> dict[str, dict[str, SpecifierSet]]:
    """Section -> package -> versions that pyproject.toml admits."""
    listed = {"core": project()["project"]["dependencies"]}
    listed |= project()["project"]["optional-dependencies"]
    parsed = {section: map(Requirement, lines) for section, lines in listed.items()}
    return {section: {r.name: r.specifier for r in parsed[section]} for section in parsed}


def test_requirements_have_three_sections_of_exact_pins() -> None:
    assert tuple(pins()) == SECTIONS
    packages = [canonicalize_name(name) for section in pins().values() for name in section]
    assert len(packages) == len(set(packages))
    assert pins()["core"]["torch"] == "2.13.0"


@pytest.mark.parametrize("section", SECTIONS)
def test_ranges_admit_the_pins(section: str) -> None:
    assert ranges()[section].keys() == pins()[section].keys()
    for name, version in pins()[section].items():
        specifier = ranges()[section][name]
        assert str(specifier), f"{name} has no lower bound"
        assert specifier.contains(version), f"{name} {version} is not in {specifier}"


def test_conda_environment_installs_the_pins_and_nothing_else() -> None:
    entries = re.findall(r"^ +- (.+)$", text("environment.yml"), flags=re.MULTILINE)
    python = next(entry for entry in entries if entry.startswith("python="))
    assert sorted(set(entries) - {python}) == [
        "-r requirements.txt",
        "conda-forge",
        "pip",
        "pip:",
    ]
    assert SpecifierSet(project()["project"]["requires-python"]).contains(python.split("=")[1])


def test_container_installs_the_pins_as_an_ordinary_user() -> None:
    lines = [line.strip() for line in text("Dockerfile").replace("\\\n", "").splitlines()]
    assert any(re.fullmatch(r"FROM nvidia/cuda:\S+-devel-\S+", line) for line in lines)
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 1
    assert "-r /tmp/requirements.txt" in installs[0]
    user = next(line for line in lines if line.startswith("USER"))
    assert user != "USER root"
    assert lines.index(user) < lines.index(installs[0])
    volume = next(line for line in lines if line.startswith("VOLUME")).split()[1]
    assert f"TORCH_EXTENSIONS_DIR={volume}/" in text("Dockerfile")


def test_wheel_contains_every_script_and_package() -> None:
    tool = project()["tool"]["setuptools"]
    assert sorted(f"{name}.py" for name in tool["py-modules"]) == SCRIPTS
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert rooms <= {pattern.rstrip("*") for pattern in tool["packages"]["find"]["include"]}


def test_ci_runs_the_commands_of_the_readme() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    for command in ("make test", "make demo"):
        assert re.search(rf"^    {command}$", text("README.md"), flags=re.MULTILINE)
    assert "make test VENV=" in run.read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("setup", "-m pip install --disable-pip-version-check -r requirements.txt"),
        ("demo", "-m analysis.demo"),
        ("test", "-m pytest -n 2"),
        ("lint", "-m ruff check --no-cache ."),
        ("bench", "-m analysis.bench"),
    ],
)
def test_make_targets_install_first(target: str, command: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    result = subprocess.run(
        ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert command in result.stdout
    assert result.stdout.index("-m venv") <= result.stdout.index(command)


def test_licence_is_apache_2() -> None:
    licence = text("LICENSE")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert project()["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_because_it_imports_nothing_heavy(script: str) -> None:
    code = (
        "import runpy, sys, time\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'tensorboard', 'requests'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        # Processor time: a busy machine must not fail the test.
        "assert time.process_time() < 1, time.process_time()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout
