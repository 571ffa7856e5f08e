"""Which module imports which: no cycles, and no room imports one below it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hf_calib

ROOT = Path(hf_calib.__file__).parent
# From the top; each imports those above it.
ROOMS = (
    "measures", "tasks", "confidence", "calibrators", "regularizers", "reports", "hub", "evaluation", "trainers",
    "scripts", "lab", "cli",
)  # fmt: skip


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_level(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports outside functions, those for type checking included."""
    return imports(tree, lambda node: isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def at_runtime(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that are carried out, those in functions included."""
    return imports(tree, lambda node: isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))


def imports(tree: ast.Module, left_out: Callable[[ast.AST], bool]) -> Iterator[ast.Import | ast.ImportFrom]:
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not left_out(node):
            pending.extend(ast.iter_child_nodes(node))


def import_graph(root: Path, found_in: Callable = module_level) -> dict[str, set[str]]:
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
        for node in found_in(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_no_room_imports_one_below_it():
    def place(module: str) -> int | None:
        room = module.split(".")[1] if "." in module else ""
        return ROOMS.index(room) if room in ROOMS else None

    graph = import_graph(ROOT, at_runtime)
    assert {module.split(".")[1] for module in graph if module.count(".") > 1} == set(ROOMS)
    wrong = [
        f"{module} imports {other}"
        for module, found in graph.items()
        for other in found
        if None not in (above := (place(module), place(other))) and above[1] > above[0]
    ]
    assert not wrong


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
