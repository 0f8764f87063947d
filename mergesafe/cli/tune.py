"""``mergesafe tune``: progress, and what was found."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from mergesafe.cli.shared import print_json, printable, warn
from mergesafe.errors import RequirementError

if TYPE_CHECKING:
    from mergesafe.tune.problem import Moment
    from mergesafe.tune.result import TuneResult

#: Steps between two lines of progress in a log.
_LOGGED: Final = 10


def run(
    recipe: Path, out: Path, report: Path | None, *, json: bool, quiet: bool, **options: Any
) -> None:
    """Tune with progress on standard error; print a summary or JSON."""
    from mergesafe.tune.api import tune

    result = tune(recipe, out, progress=None if json or quiet else show, **options)
    found = result.as_json()
    if report is not None:
        report.write_text(dumps(found, indent=2) + "\n", encoding="utf-8")
    if json:
        print_json(found)
    elif not quiet:
        warn(result.warnings)
        for line in summary(result):
            print(printable(line))
    if not result.feasible:
        raise typer.Exit(RequirementError.exit_status)


def show(moment: Moment) -> None:
    """A line of progress: every step on a terminal, in place; some in a log."""
    terms = ", ".join(f"{name} {value:.3f}" for name, value in moment.terms.items())
    line = (
        f"{moment.search} step {moment.step}: {moment.objective:.4f} ({terms}), "
        f"{moment.evaluations} evaluations, {moment.seconds:.0f} s"
    )
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{printable(line)}", end="", file=sys.stderr, flush=True)
    elif moment.step == 1 or moment.step % _LOGGED == 0:
        print(printable(line), file=sys.stderr, flush=True)


def summary(result: TuneResult) -> list[str]:
    """What was found, in a few lines."""
    lines = [
        f"{result.out}: {', then '.join(result.searches)} over {result.granularity} coefficients "
        f"of {len(result.models)} models; objective {result.start:.4f} -> {result.objective:.4f} "
        f"in {result.evaluations} evaluations ({result.forward_passes} forward passes, "
        f"{result.seconds:.0f} s)",
        f"  optimised on  {_listed(result.terms)}",
        f"  held out      {_listed(result.heldout)}",
    ]
    return lines


def _listed(terms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
