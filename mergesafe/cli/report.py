"""``mergesafe report``: one HTML page of what the other commands found."""

from __future__ import annotations

from pathlib import Path

from mergesafe.cli.shared import print_json, warn
from mergesafe.engine.memory import format_size
from mergesafe.report.api import report
from mergesafe.terminal.text import printable
from mergesafe.version import __version__


def run(runs: list[Path], *, out: Path, candidate: str | None, json: bool, quiet: bool) -> None:
    """Write the page and print its verdict."""
    made = report(runs, out, candidate)
    if json:
        print_json(
            {
                "mergesafe": __version__,
                "kind": "report",
                "path": str(made.path),
                "bytes": made.size,
                "headline": made.verdict.headline.text,
                "statements": [
                    {"status": s.status, "text": s.text} for s in made.verdict.statements
                ],
                "warnings": list(made.warnings),
                "files": [
                    {"path": str(d.path), "kind": d.kind, "sha256": d.sha256}
                    for d in made.documents
                ],
            }
        )
        return
    if not quiet:
        warn(made.warnings)
        print(printable(made.verdict.headline.text))
        for statement in made.verdict.first:
            print(printable(f"  {statement.text}"))
        if rest := len(made.verdict.rest):
            print(f"  and {rest} more finding{'s' if rest > 1 else ''} on the page")
        count = len(made.documents)
        files = f"{count} file{'s' if count > 1 else ''}"
        print(printable(f"{made.path}: {format_size(made.size)}, from {files}"))
