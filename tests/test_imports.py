"""Which module imports which: no cycles, and no room imports one below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hf_calib

ROOT = Path(hf_calib.__file__).parent


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_level(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports outside functions, those for type checking included."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def import_graph(root: Path) -> dict[str, set[str]]:
    """Return the package's modules that each of its modules imports; a lazy name counts for the module it is in."""
    files = {module_name(path, root): path for path in root.rglob("*.py")}
    lazy = {
        f"{package}.{alias.name}": f"{package}.{node.module or alias.name}"
        for package, path in files.items()
        if path.with_suffix(".pyi").exists()
        for node in module_level(ast.parse(path.with_suffix(".pyi").read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def home(module: str, name: str) -> str:
        while f"{module}.{name}" in lazy and lazy[f"{module}.{name}"] != f"{module}.{name}":
            module = lazy[f"{module}.{name}"]
        return f"{module}.{name}" if f"{module}.{name}" in files else module

    graph = {}
    for module, path in files.items():
        package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
        found = set()
        for node in module_level(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            else:
                base = package[: len(package) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                found |= {home(source, alias.name) for alias in node.names}
        graph[module] = (found & files.keys()) - {module}
    return graph


def test_there_is_no_import_cycle():
    try:
        TopologicalSorter(import_graph(ROOT)).prepare()
    except CycleError as error:
        pytest.fail("modules import each other: " + " <- ".join(error.args[1]))


def test_a_cycle_would_be_found(tmp_path):
    package = tmp_path / "package"
    for folder in (package, package / "room"):
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (package / "room" / "__init__.pyi").write_text("from .inner import thing as thing\n")
    (package / "room" / "inner.py").write_text("if TYPE_CHECKING:\n    from .. import outer\n")
    (package / "outer.py").write_text("from .room import thing\n")
    graph = import_graph(package)
    assert graph["package.outer"] == {"package.room.inner"}
    assert graph["package.room.inner"] == {"package.outer"}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
