"""Runs ``mergesafe plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergesafe.cli.plan.description import describe
from mergesafe.cli.plan.text import as_text
from mergesafe.cli.recipes import readable
from mergesafe.cli.shared import print_json, say, warn
from mergesafe.engine.api import plan as plan_merge
from mergesafe.terminal.text import printable


def run(recipe: Path, *, layers: bool, json: bool, quiet: bool, **options: Any) -> None:
    """Print the plan as text or JSON; its warnings go to standard error."""
    described = describe(plan_merge(readable(recipe), **options))
    if json:
        print_json(described)
        return
    if not quiet:
        warn(described["warnings"])
        say(*map(printable, as_text(described, layers=layers).splitlines()))
