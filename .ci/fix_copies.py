"""Copy into each metric's folder the modules that it imports, so that the folder works on its own.

`make fix-copies` runs this; a test fails where a copy differs from its original. Edit the originals, in
`hf_calib/measures/` and `metrics/shared/`, never the copies.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METRICS = ROOT / "metrics"
ORIGINALS = {
    path.name: path
    for folder in (ROOT / "hf_calib" / "measures", METRICS / "shared")
    for path in folder.glob("*.py")
    if path.name != "__init__.py"
}


def main() -> None:
    """Bring every copy up to date, and delete those that their metric no longer imports."""
    for path, content in outdated().items():
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        print(f"{'deleted' if content is None else 'copied'} {path.relative_to(ROOT).as_posix()}")


def outdated() -> dict[Path, bytes | None]:
    """Return the copies that are missing or differ, with their right content: None for one that is not needed."""
    found: dict[Path, bytes | None] = {}
    for folder in sorted(path for path in METRICS.iterdir() if (path / f"{path.name}.py").is_file()):
        needed = needed_modules(folder)
        for name, original in sorted(ORIGINALS.items()):
            path, content = folder / name, original.read_bytes()
            if name in needed and (not path.is_file() or path.is_symlink() or path.read_bytes() != content):
                found[path] = content
            elif name not in needed and path.exists():
                found[path] = None
    return found


def needed_modules(folder: Path) -> set[str]:
    """Return the names of the files that a metric's module and page import, directly or through another file."""
    needed: set[str] = set()
    waiting = [folder / f"{folder.name}.py", folder / "app.py"]
    while waiting:
        tree = ast.parse(waiting.pop().read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names = {f"{module}.py" for module in imported} & ORIGINALS.keys() - needed
        needed |= names
        waiting += [ORIGINALS[name] for name in names]
    return needed


if __name__ == "__main__":
    main()
