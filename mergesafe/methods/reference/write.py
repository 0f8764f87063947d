"""Writes the method reference: ``python -m mergesafe.methods.reference.write``.

Run it in the root of the repository. It writes a page for each method to docs/methods/, and what
lies between a line with "methods: begin" and one with "methods: end" in docs/methods.md (the table
of all methods), in docs/tuning.md (the coefficients) and in mkdocs.yml (the navigation), and how
many methods there are to README.md. It also writes what type checkers read of the methods as
functions, mergesafe/methods/__init__.pyi.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from mergesafe.methods.reference.docstring import link, summary_of
from mergesafe.methods.reference.page import needs, page_of, table
from mergesafe.methods.reference.signature import stub
from mergesafe.methods.registry import METHODS
from mergesafe.methods.spec import MergeMethod

FOLDER: Final = Path("docs/methods")
OVERVIEW: Final = Path("docs/methods.md")
COEFFICIENTS: Final = Path("docs/tuning.md")
NAVIGATION: Final = Path("mkdocs.yml")
COUNT: Final = Path("README.md")
STUB: Final = Path("mergesafe/methods/__init__.pyi")
BEGIN: Final = "methods: begin"
END: Final = "methods: end"


def reference(root: Path, methods: Mapping[str, MergeMethod]) -> dict[Path, str]:
    """The text of every file under ``root`` that holds anything of the reference."""
    files = {FOLDER / f"{name}.md": page_of(method) for name, method in methods.items()}
    files[OVERVIEW] = _between(root / OVERVIEW, _table(methods))
    files[COEFFICIENTS] = _between(root / COEFFICIENTS, _coefficients(methods))
    files[COUNT] = _counted((root / COUNT).read_text(), len(methods))
    files[STUB] = stub(methods)
    files[NAVIGATION] = _between(root / NAVIGATION, "\n".join(_navigation(methods)))
    return files


def stale(root: Path, methods: Mapping[str, MergeMethod]) -> Iterator[Path]:
    """Pages under ``root`` of methods that there are not."""
    for page in sorted((root / FOLDER).glob("*.md")):
        if page.stem not in methods:
            yield page


def _table(methods: Mapping[str, MergeMethod]) -> str:
    rows = []
    for name, method in methods.items():
        gradient = ", ".join(f"`{p.name}`" for p in method.parameters if p.gradient)
        paper = link(method.paper) if method.paper else ""
        rows.append(
            (
                f"[`{name}`](methods/{name}.md)", summary_of(method), needs(method.inputs),
                method.exact, gradient, paper,
            )
        )  # fmt: skip
    return table(("method", "result", "takes", "exactness", "gradient", "source"), rows)


def _coefficients(methods: Mapping[str, MergeMethod]) -> str:
    """What can be tuned: a row for each name of a coefficient and its bounds."""
    found: dict[tuple[str, tuple[float, float], bool], list[str]] = {}
    for name, method in methods.items():
        for each in () if method.inputs.adapters else method.parameters:
            if each.tunable is not None and not each.ignored:
                found.setdefault((each.name, each.tunable, each.gradient), []).append(name)
    names = [p.name for method in methods.values() for p in method.parameters]
    rows = [
        (
            f"`{name}`", ", ".join(f"`{each}`" for each in of), f"[{low:g}, {high:g}]",
            "yes" if gradient else "no",
        )
        for (name, (low, high), gradient), of in sorted(
            found.items(), key=lambda row: names.index(row[0][0])
        )
    ]  # fmt: skip
    rows.append(("those of METHOD", "`core_space(METHOD)`", "those of METHOD", "as with METHOD"))
    return table(("coefficient", "of", "bounds by default", "gradient"), rows)


def _counted(text: str, count: int) -> str:
    """``text`` with the number of methods where it links to the table of all."""
    return re.sub(r"\[\d+ methods\](?=\(docs/methods\.md\))", f"[{count} methods]", text)


def _navigation(methods: Mapping[str, MergeMethod]) -> Iterator[str]:
    for name in methods:
        yield f"        - {name}: methods/{name}.md"


def _between(path: Path, text: str) -> str:
    """The file with ``text`` between the lines with BEGIN and END."""
    lines = path.read_text().split("\n")
    marks = [next(i for i, line in enumerate(lines) if mark in line) for mark in (BEGIN, END)]
    return "\n".join([*lines[: marks[0] + 1], text, *lines[marks[1] :]])


def main(root: Path) -> None:
    """Write them, and remove the pages of methods that there are not."""
    for path, text in reference(root, METHODS).items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    for path in stale(root, METHODS):
        path.unlink()


if __name__ == "__main__":
    main(Path(*sys.argv[1:]))
