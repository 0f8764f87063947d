"""What the contract of import-linter in pyproject.toml does not say of imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join((path.parent if path.stem == "__init__" else path.with_suffix("")).parts): ROOT / path
    for path in (found.relative_to(ROOT) for found in (ROOT / "mergesafe").rglob("*.py"))
}


def imports(module: str) -> Iterator[str]:
    """Modules of mergesafe that ``module`` imports anywhere, for type checkers alone excepted."""
    tree = ast.parse(FILES[module].read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in FILES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mergesafe"):
            assert node.module is not None
            names = [f"{node.module}.{each.name}" for each in node.names]
            yield from (name if name in FILES else node.module for name in names)


def test_no_two_modules_import_each_other() -> None:
    # The package itself and mergesafe.methods look names up when they are asked for.
    late = {"mergesafe", "mergesafe.methods"}
    graph = {name: set(imports(name)) - late for name in FILES.keys() - late}
    TopologicalSorter(graph).prepare()  # names the modules of a circle


def test_underscore_modules_stay_in_their_package() -> None:
    for module in FILES:
        for name in imports(module):
            package, mark, _ = name.partition("._")
            assert not mark or module.startswith(f"{package}."), f"{module} imports {name}"
