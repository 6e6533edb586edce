"""Builds the source text that network snapshots carry: all networks in one self-contained module.

`source` puts the portable modules one after the other into a single namespace and drops the imports
between them. The text needs only torch, numpy and the standard library, of Python 3.8 or later, so
that it also runs in programs older than this one. What would break it is an error here, when the
text is built, not later in someone else's program:

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

FILES = (
    "ops/bias_act/reference.py",
    "ops/conv2d/reference.py",
    "ops/fma/reference.py",
    "ops/fmm/reference.py",
    "ops/fourier/reference.py",
    "ops/grid_sample/reference.py",
    "ops/upfirdn2d/plain.py",
    "ops/conv2d_resample/reference.py",
    "ops/inr_layer/inputs.py",
    "ops/inr_layer/plain.py",
    "networks/lattice.py",
    "networks/fourier.py",
    "networks/presets.py",
    "networks/layers.py",
    "networks/mapping.py",
    "networks/discriminator.py",
    "networks/stylegan2.py",
    "networks/render.py",
    "networks/inr.py",
    "networks/generator.py",
    "training/wavelets.py",
    "training/augment_transforms.py",
    "training/augment.py",
)
"""The portable modules; where an op has a fast plain version, that one. Order does not matter."""

_OWN_PACKAGES = {"analysis", "dnnlib", "metrics", "networks", "ops", "torch_utils", "training"}
_ALLOWED_PACKAGES = {
    "collections",
    "contextlib",
    "dataclasses",
    "fractions",
    "functools",
    "itertools",
    "math",
    "numpy",
    "torch",
    "typing",
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
        needs: (file or package folder, name) of each import from this project.
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
    return bundle(Path(__file__).resolve().parent.parent, FILES)


def bundle(root: Path, files: tuple[str, ...]) -> str:
    """Builds the text from the given files.

    Args:
        root: The repository.
        files: Python files relative to it.

    Returns:
        One module. Its first line begins with `torch_utils.persistence.BUNDLE_HEADER`.

    Raises:
        PortableSourceError: A module breaks a rule of this file.
    """
    modules = {path: _read_module(root, path) for path in files}
    _check_names(modules)
    imports = sorted({line for module in modules.values() for line in module.imports.values()})
    parts = [
        f"{BUNDLE_HEADER}\n{_INTRO.format(count=len(files))}",
        "from __future__ import annotations\n",
        "\n".join(imports) + "\n",
    ]
    for path in _in_order(modules):
        parts.append(f"\n# {path}\n\n{modules[path].body.strip()}\n")
    text = "\n".join(parts)
    _check_defined(text)
    return text


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
    if relative or (package in _OWN_PACKAGES and isinstance(statement, ast.Import)):
        raise PortableSourceError(f"{where}: write 'from {origin or 'package.module'} import name'")
    if package == "__future__":
        return
    if package not in _OWN_PACKAGES | _ALLOWED_PACKAGES:
        raise PortableSourceError(f"{where}: imports {origin}, which snapshots must not need")
    for alias in statement.names:
        if alias.name == "*" or (package in _OWN_PACKAGES and alias.asname):
            raise PortableSourceError(f"{where}: 'as' and '*' cannot be undone in one namespace")
        if package in _OWN_PACKAGES:
            module.needs.append((origin.replace(".", "/"), alias.name))
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


def _providers(modules: dict[str, _Module], origin: str) -> list[_Module]:
    """The modules of the text that an import from `origin` may mean: a file, or its op's folder."""
    if origin.startswith("ops/"):
        folder = "/".join(origin.split("/")[:2]) + "/"
        return [module for path, module in modules.items() if path.startswith(folder)]
    return [module for path, module in modules.items() if path == f"{origin}.py"]


def _check_names(modules: dict[str, _Module]) -> None:
    """Every name means one thing in the whole text, and every import finds its name."""
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
    for path, module in modules.items():
        for origin, name in module.needs:
            if not any(name in other.names for other in _providers(modules, origin)):
                raise PortableSourceError(
                    f"{path}: no portable module defines {name} of {origin.replace('/', '.')}"
                )


def _in_order(modules: dict[str, _Module]) -> list[str]:
    """Sorts the files so that each comes after those it imports from."""
    graph = {
        path: [
            other.path
            for origin, name in module.needs
            for other in _providers(modules, origin)
            if name in other.names
        ]
        for path, module in modules.items()
    }
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
