"""``mergesafe demo``: one bad model spoils the bunch."""

from __future__ import annotations

from pathlib import Path

from mergesafe.cli.shared import print_json
from mergesafe.demo.story import run as tell


def run(workdir: Path, *, json: bool, quiet: bool) -> None:
    """Run the story in ``workdir``; print its table, or its figures as JSON."""
    figures = tell(workdir, quiet=quiet or json)
    if json:
        print_json(figures)
