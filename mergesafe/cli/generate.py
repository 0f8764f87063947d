"""``mergesafe generate``: progress and summary."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergesafe.cli.shared import print_json, warn
from mergesafe.data.api import GenerateResult, generate
from mergesafe.log_lines import LogLines
from mergesafe.results.writing import as_dict
from mergesafe.terminal.text import printable
from mergesafe.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def run(recipe: Path, out: Path | None, *, json: bool, quiet: bool, **options: Any) -> None:
    """Generate with progress, bars on a terminal and lines in a log; print a summary or JSON."""
    bar: Bar | LogLines | None = None
    if not (json or quiet):
        bar = Bar() if sys.stderr.isatty() else LogLines()
    try:
        result = generate(recipe, out, progress=bar, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; what was answered is kept: go on with --resume"
        ) from None
    finally:
        if bar is not None:
            bar.stop()
    if json:
        print_json(
            {
                "mergesafe": __version__,
                "kind": "data_cards",
                "path": str(result.path),
                "cards": [as_dict(card) for card in result.cards],
            }
        )
    elif not quiet:
        warn(result.warnings)
        for line in summary(result):
            print(printable(line))


def summary(result: GenerateResult) -> list[str]:
    """Two or three lines a set."""
    lines = []
    for card in result.cards:
        lines.append(f"{result.path / card.path}: {card.records:,} records")
        for title, counts in (("answered by", card.answered_by), ("discarded", card.discarded)):
            told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            if told:
                lines.append(f"  {title:<11}  {told}")
    return lines


class Bar:
    """A progress bar for each thing that is done in turn."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._view: Progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), console=Console(stderr=True),
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._view.start()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._view.add_task(printable(what), total=total)
        self._view.update(self._tasks[what], completed=done, total=total)

    def stop(self) -> None:
        self._view.stop()
