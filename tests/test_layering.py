"""The rules of the house that a program can check: who imports whom, portable modules, sizes."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import the rooms of its own and of lower floors.
FLOORS = {
    "dnnlib": 0,
    "torch_utils": 1,
    "ops": 2,
    "networks": 3,
    "training": 4,
    "metrics": 4,
    "analysis": 5,
    "": 6,  # the root scripts
}
# Faces only re-export names that other people's code imports.
FACES = ("torch_utils/ops/", "training/networks.py")
# The diagnosis asks the ops for their state, inside a function.
EXCEPTIONS = {("torch_utils/info.py", "ops")}
# Nothing that decides about --help may load torch.
WITHOUT_TORCH = (
    "dnnlib/",
    "networks/__init__.py",
    "networks/presets.py",
    "networks/shapes.py",
    "metrics/__init__.py",
    "metrics/names.py",
)

MAX_FILE_LINES = 400
MAX_TEST_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
LONGER_FUNCTIONS = {("training/training_loop.py", "training_loop"): 150}

PORTABLE_PACKAGES = {
    "__future__",
    "collections",
    "contextlib",
    "dataclasses",
    "fractions",
    "functools",
    "itertools",
    "math",
    "numpy",
    "operator",
    "torch",
    "typing",
    "warnings",
}


def project_files() -> list[str]:
    """All Python files of the repository's rooms and the root scripts, relative to the root."""
    files = list(ROOT.glob("*.py"))
    for room in filter(None, FLOORS):
        files += (ROOT / room).rglob("*.py")
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


def files_of_tests() -> list[str]:
    """The tests, relative to the root."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))


@functools.cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=path)


def imported_modules(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute names of all modules imported anywhere below `node`, with their lines."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield "." * child.level + (child.module or ""), child.lineno


def room_of(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""


def wrong_imports(path: str, module: ast.Module) -> list[str]:
    """Imports that point upwards in the house, and relative ones, which hide where they point."""
    scripts = {script.stem for script in ROOT.glob("*.py")}
    wrong = []
    for name, line in imported_modules(module):
        package = name.partition(".")[0]
        if name.startswith("."):
            wrong.append(f"{path}:{line} imports relatively: {name}")
        elif (path, package) not in EXCEPTIONS and (package in FLOORS or package in scripts):
            floor = FLOORS.get(package, FLOORS[""])
            if floor > FLOORS[room_of(path)]:
                wrong.append(f"{path}:{line} imports {name}, which is on a higher floor")
    return wrong


def test_the_house_is_there() -> None:
    files = project_files()
    for expected in ("dnnlib/util.py", "torch_utils/misc.py", "ops/bias_act/api.py", "train.py"):
        assert expected in files


@pytest.mark.parametrize("path", project_files())
def test_import_direction(path: str) -> None:
    if not path.startswith(FACES):
        assert wrong_imports(path, tree(path)) == []


@pytest.mark.parametrize("path", [p for p in project_files() if p.startswith(FACES)])
def test_faces_only_re_export(path: str) -> None:
    functions = [node for node in tree(path).body if isinstance(node, ast.FunctionDef)]
    assert functions == []
    assert len((ROOT / path).read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", [p for p in project_files() if p.startswith(WITHOUT_TORCH)])
def test_light_modules_do_not_import_torch(path: str) -> None:
    heavy = {"torch", "torch_utils", "ops", "scipy"}
    top_level = [node for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name.partition(".")[0] for node in top_level for name, _line in imported_modules(node)}
    if path.startswith("dnnlib/"):
        names = {name.partition(".")[0] for name, _line in imported_modules(tree(path))}
    assert not names & heavy


@pytest.mark.parametrize("path", [p for p in project_files() if room_of(p) == ""])
def test_root_scripts_import_torch_only_inside_functions(path: str) -> None:
    if path == "legacy.py":  # a library for other people's scripts, not a command
        pytest.skip("legacy.py has no command line")
    heavy = {"torch", "torch_utils", "ops", "numpy", "scipy", "PIL"}
    top_level = [node for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {name.partition(".")[0] for node in top_level for name, _line in imported_modules(node)}
    assert not names & heavy


def test_portable_text_only_imports_and_defines() -> None:
    """What snapshots embed; how the modules must be written for that, networks.portable checks."""
    from networks import portable

    body = ast.parse(portable.source()).body
    defines = (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)
    for node in body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert docstring or isinstance(node, defines), ast.unparse(node)
    packages = {name.partition(".")[0] for node in body for name, _line in imported_modules(node)}
    assert packages <= PORTABLE_PACKAGES
    names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(names) == len(set(names)) and {"Generator", "Discriminator"} <= set(names)


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Length of a function's body without its docstring.

    Decorators and the signature do not count: the formatter gives each option and each argument a
    line, and the interface fixes how many there are.
    """
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    last = function.body[-1].end_lineno
    assert last is not None
    return last - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", project_files() + files_of_tests())
def test_sizes(path: str) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    limit = MAX_TEST_FILE_LINES if path.startswith("tests/") else MAX_FILE_LINES
    assert lines <= limit, f"{path} has {lines} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            limit = LONGER_FUNCTIONS.get((path, node.name), MAX_FUNCTION_LINES)
            assert own_lines(node) <= limit, f"{path}:{node.lineno} {node.name} is too long"


@pytest.mark.parametrize("path", project_files() + files_of_tests())
def test_text_conventions(path: str) -> None:
    data = (ROOT / path).read_bytes()
    assert data.isascii(), f"{path} is not ASCII"
    module = tree(path)
    if any(not isinstance(node, (ast.Expr, ast.ImportFrom)) for node in module.body):
        futures = [n for n in module.body if isinstance(n, ast.ImportFrom)]
        assert any(n.module == "__future__" for n in futures), f"{path} lacks the future import"
    assert ast.get_docstring(module), f"{path} has no docstring"


def test_the_check_sees_an_upward_import() -> None:
    module = ast.parse("def f():\n    from networks.inr import INRSynthesis\n    from . import x\n")
    assert len(wrong_imports("ops/fmm/api.py", module)) == 2
    assert len(wrong_imports("training/loss.py", module)) == 1
    assert wrong_imports("dnnlib/util.py", ast.parse("import train"))
    assert not wrong_imports("train.py", ast.parse("import networks, legacy"))
