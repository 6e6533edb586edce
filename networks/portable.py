"""Builds the source text that network snapshots carry: all networks in one self-contained module.

`source` follows the imports from a few modules, puts all that it finds one after the other into a
single namespace and drops the imports between them. The text needs only torch, numpy and the
standard library, of Python 3.8 or later, so that it also runs in programs older than this one. What
would break it is an error here, when the text is built, not later in someone else's program:

* two modules define the same name, or a name differently;
* a module imports something else, renames what it imports, or imports inside a function;
* it uses syntax or library functions that Python 3.8 does not have.

The text of an op is its plain PyTorch implementation, under the name of the public function.
"""

from __future__ import annotations

import ast
import builtins
import graphlib
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from torch_utils.persistence import BUNDLE_HEADER

ROOTS = ("networks/generator.py", "training/augment.py")
"""The text holds these modules and everything that they import from this project."""

_OP_FILES = ("plain.py", "reference.py", "inputs.py")
"""Where an op's public names are looked up, in this order: the fastest plain version first."""

_PORTABLE_PACKAGES = {"networks", "ops", "training"}
_ALLOWED_PACKAGES = {
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
_TOO_NEW_FOR_PYTHON_3_8 = {
    ("functools", "cache"),
    ("itertools", "batched"),
    ("itertools", "pairwise"),
    ("math", "cbrt"),
    ("math", "exp2"),
    ("math", "lcm"),
    ("math", "nextafter"),
    ("math", "sumprod"),
    ("math", "ulp"),
    ("typing", "Annotated"),
    ("typing", "ParamSpec"),
    ("typing", "Self"),
    ("typing", "TypeAlias"),
}
_TOO_NEW_KEYWORDS = {("zip", "strict"), ("dataclass", "slots"), ("dataclass", "kw_only")}
_TOO_NEW_METHODS = {"bit_count", "removeprefix", "removesuffix"}
_GENERICS = {"dict", "frozenset", "list", "set", "tuple", "type"}
_INTRO = """\
# Copyright and licence: Apache License 2.0, as the project that this text was collected from.
# Generated from {count} of its modules; needs only torch and numpy.
"""


class PortableSourceError(Exception):
    """A module cannot be part of the portable text; the message names file, line and reason."""


@dataclass
class _Module:
    """One file on its way into the text.

    Attributes:
        path: Relative to the repository.
        body: Its lines without imports.
        names: Every name it defines at top level.
        needs: (module, name) of each import from this project.
        imports: Other import statements, by the name that they bind.
    """

    path: str
    body: str = ""
    names: set[str] = field(default_factory=set)
    needs: list[tuple[str, str]] = field(default_factory=list)
    imports: dict[str, str] = field(default_factory=dict)


@cache
def source() -> str:
    """The text, always the same `str` object.

    Raises:
        PortableSourceError: A module breaks a rule of this file.
    """
    return bundle(Path(__file__).resolve().parent.parent, ROOTS)


def bundle(root: Path, roots: tuple[str, ...]) -> str:
    """Builds the text of some modules and of those that they import.

    Args:
        root: The repository.
        roots: Python files relative to it.

    Returns:
        One module. Its first line begins with `torch_utils.persistence.BUNDLE_HEADER`.

    Raises:
        PortableSourceError: A module breaks a rule of this file.
    """
    modules: dict[str, _Module] = {}
    graph: dict[str, list[str]] = {}
    pending = list(reversed(roots))
    while pending:
        path = pending.pop()
        if path in graph:
            continue
        module = _module(modules, root, path)
        graph[path] = [_find(modules, root, module, *need) for need in module.needs]
        pending.extend(graph[path])
    modules = {path: modules[path] for path in graph}
    _check_names(modules)
    imports = sorted({line for module in modules.values() for line in module.imports.values()})
    parts = [
        f"{BUNDLE_HEADER}\n{_INTRO.format(count=len(modules))}",
        "from __future__ import annotations\n",
        "\n".join(imports) + "\n",
    ]
    for path in _in_order(graph):
        parts.append(f"\n# {path}\n\n{modules[path].body.strip()}\n")
    text = "\n".join(parts)
    _check_defined(text)
    return text


def _module(modules: dict[str, _Module], root: Path, path: str) -> _Module:
    if path not in modules:
        modules[path] = _read_module(root, path)
    return modules[path]


def _find(modules: dict[str, _Module], root: Path, user: _Module, origin: str, name: str) -> str:
    """The file that defines what `from origin import name` means in the text."""
    folder = origin.replace(".", "/")
    candidates = [f"{folder}.py"]
    if origin.startswith("ops."):
        candidates += [f"{folder}/{file}" for file in _OP_FILES]
    for path in candidates:
        if (root / path).is_file() and name in _module(modules, root, path).names:
            return path
    raise PortableSourceError(f"{user.path}: no portable module defines {name} of {origin}")


def _read_module(root: Path, path: str) -> _Module:
    text = (root / path).read_text(encoding="utf-8")
    try:
        tree = ast.parse(text, path, feature_version=(3, 8))
    except SyntaxError as error:
        raise PortableSourceError(f"{path}:{error.lineno}: {error.msg} (Python 3.8)") from error
    module = _Module(path)
    lines = text.splitlines()
    for statement in tree.body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            _take_import(module, statement)
        elif not _is_assignment_of(statement, "__all__"):
            module.names.update(_bound_names(statement))
            continue
        for number in range(statement.lineno - 1, statement.end_lineno):
            lines[number] = ""
    top = set(tree.body)
    for node in ast.walk(tree):
        _check_node(path, node, at_top=node in top)
    _check_runtime_generics(path, tree)
    module.body = re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines))
    return module


def _take_import(module: _Module, statement: ast.Import | ast.ImportFrom) -> None:
    """Notes what an import statement binds; relative imports and odd packages are errors."""
    where = f"{module.path}:{statement.lineno}"
    if isinstance(statement, ast.Import):
        origin, relative = statement.names[0].name, False
    else:
        origin, relative = statement.module or "", statement.level > 0
    package = origin.split(".")[0]
    if relative or (package in _PORTABLE_PACKAGES and isinstance(statement, ast.Import)):
        raise PortableSourceError(f"{where}: write 'from {origin or 'package.module'} import name'")
    if package == "__future__":
        return
    if package not in _PORTABLE_PACKAGES | _ALLOWED_PACKAGES:
        raise PortableSourceError(f"{where}: imports {origin}, which snapshots must not need")
    for alias in statement.names:
        if alias.name == "*" or (package in _PORTABLE_PACKAGES and alias.asname):
            raise PortableSourceError(f"{where}: 'as' and '*' cannot be undone in one namespace")
        if package in _PORTABLE_PACKAGES:
            module.needs.append((origin, alias.name))
            continue
        single = ast.unparse(
            ast.Import([alias])
            if isinstance(statement, ast.Import)
            else ast.ImportFrom(origin, [alias], 0)
        )
        module.imports[alias.asname or alias.name.split(".")[0]] = single


def _is_assignment_of(statement: ast.stmt, name: str) -> bool:
    return isinstance(statement, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == name for target in statement.targets
    )


def _bound_names(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement defines in the module."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    return {
        node.id
        for node in _outside_functions(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    scopes = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp)
    if not isinstance(node, (*scopes, ast.GeneratorExp)):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _outside_functions(child)


def _check_node(path: str, node: ast.AST, at_top: bool) -> None:
    """Refuses what only works in a file of its own, or not in Python 3.8."""
    problem = None
    if isinstance(node, (ast.Import, ast.ImportFrom)) and not at_top:
        problem = "imports belong to the top of the file"
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if (node.module, alias.name) in _TOO_NEW_FOR_PYTHON_3_8:
                problem = f"{node.module}.{alias.name} is newer than Python 3.8"
    elif isinstance(node, ast.Name) and node.id in ("__file__", "__path__", "__spec__"):
        problem = f"{node.id} does not exist in a snapshot"
    elif isinstance(node, ast.Attribute) and node.attr in _TOO_NEW_METHODS:
        problem = f".{node.attr} is newer than Python 3.8"
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if (node.value.id, node.attr) in _TOO_NEW_FOR_PYTHON_3_8:
            problem = f"{node.value.id}.{node.attr} is newer than Python 3.8"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        for keyword in node.keywords:
            if (node.func.id, keyword.arg) in _TOO_NEW_KEYWORDS:
                problem = f"{node.func.id}({keyword.arg}=...) is newer than Python 3.8"
        if node.func.id in ("isinstance", "issubclass") and isinstance(node.args[-1], ast.BinOp):
            problem = "isinstance(x, A | B) is newer than Python 3.8; write (A, B)"
    if problem:
        raise PortableSourceError(f"{path}:{getattr(node, 'lineno', 0)}: {problem}")


def _check_runtime_generics(path: str, tree: ast.Module) -> None:
    """Refuses `list[int]` and the like outside annotations: Python 3.8 cannot evaluate it."""
    annotations: set[ast.AST] = set()
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            annotation = getattr(node, name, None)
            if annotation is not None:
                annotations.update(ast.walk(annotation))
    generics = _GENERICS | {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "collections.abc"
        for alias in node.names
    }
    for node in set(ast.walk(tree)) - annotations:
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            continue
        if node.value.id in generics:
            raise PortableSourceError(
                f"{path}:{node.lineno}: {ast.unparse(node)} is evaluated, which Python 3.8 cannot "
                "do"
            )


def _check_names(modules: dict[str, _Module]) -> None:
    """Every name means one thing in the whole text."""
    defined: dict[str, str] = {}
    imported: dict[str, tuple[str, str]] = {}
    for path, module in modules.items():
        for name in sorted(module.names):
            if defined.setdefault(name, path) != path:
                raise PortableSourceError(f"{defined[name]} and {path} both define {name}")
        for name, line in module.imports.items():
            other_line, other_path = imported.setdefault(name, (line, path))
            if other_line != line:
                raise PortableSourceError(f"{other_path}: {other_line!r}, but {path}: {line!r}")
    for name in sorted(defined.keys() & imported.keys()):
        raise PortableSourceError(
            f"{defined[name]} defines {name}, which {imported[name][1]} imports"
        )


def _in_order(graph: dict[str, list[str]]) -> list[str]:
    """Sorts the files so that each comes after those it imports from."""
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise PortableSourceError(f"imports go in a circle: {' -> '.join(error.args[1])}") from None


def _check_defined(text: str) -> None:
    """Every global name that any function of the text uses is defined in it or built in."""
    top = symtable.symtable(text, "portable", "exec")
    known = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned()}
    known |= {symbol.get_name() for symbol in top.get_symbols() if symbol.is_imported()}
    known |= {symbol.get_name() for symbol in top.get_symbols() if symbol.is_namespace()}
    known |= set(dir(builtins)) | {"__name__"}
    pending = [top]
    while pending:
        table = pending.pop()
        pending.extend(table.get_children())
        for symbol in table.get_symbols():
            is_global = symbol.is_global() or table is top
            if symbol.is_referenced() and is_global and symbol.get_name() not in known:
                raise PortableSourceError(
                    f"{table.get_name()} (line {table.get_lineno()} of the text) uses "
                    f"{symbol.get_name()}, which nothing in the text defines"
                )
