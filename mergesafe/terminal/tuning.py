"""The progress of tuning: steps in place on a terminal, lines in a log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from mergesafe.terminal.progress import LogLines
from mergesafe.terminal.text import printable

if TYPE_CHECKING:
    from mergesafe.tune.search.problem import Progress


class Show:
    """Every step on a terminal, in place; in a log first steps, and a line every ten seconds."""

    def __init__(self) -> None:
        self._lines = LogLines()

    def __call__(self, moment: Progress) -> None:
        terms = ", ".join(f"{name} {value:.3f}" for name, value in moment.terms.items())
        part = f" ({moment.part})" if moment.part else ""
        line = (
            f"{moment.search} step {moment.step}{part}: {moment.objective:.4f}"
            f"{f' ({terms})' if terms else ''}, {moment.evaluations} evaluations, "
            f"{moment.seconds:.0f} s"
        )
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{printable(line)}", end="", file=sys.stderr, flush=True)
        else:
            self._lines.share(
                f"{moment.search} {moment.part}", moment.share, line, at_once=moment.step == 1
            )


show: Final = Show()
