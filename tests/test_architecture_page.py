"""Every module, name and path on docs/architecture.md exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mergesafe"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))
PATHS = [q for q in QUOTED if re.fullmatch(r"(mergesafe|csrc|docs|tests)/[\w./-]*", q)]
NAMES = [
    q
    for q in QUOTED
    if re.fullmatch(r"[a-z_]+(\.\w+)+", q) and (PACKAGE / q.split(".")[0]).is_dir()
]


@cache
def _names_in(file: Path) -> frozenset[str]:
    """What a module defines at its top, and ``Class.name`` of what its classes do."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        found |= _names_of(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in _names_of(inner)}
    return frozenset(found)


def _names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_the_page_names_many() -> None:
    assert len(NAMES) > 80
    assert len(PATHS) > 15


@pytest.mark.parametrize("path", PATHS)
def test_a_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_exists(name: str) -> None:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[:count])
        if place.with_suffix(".py").is_file():
            rest = ".".join(parts[count:])
            assert not rest or rest in _names_in(place.with_suffix(".py")), place
            return
    assert PACKAGE.joinpath(*parts).is_dir()


def test_the_layers_are_those_of_the_contract() -> None:
    [listed] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    [contract] = re.findall(
        r"\nlayers = \[\n(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL
    )
    rows = [re.findall(r"\w+", row) for row in re.findall(r'"(.*?)"', contract)]
    page = [line.split() for line in listed.splitlines() if "," not in line]
    assert page == rows[: len(page)]
