"""The progress of tuning: steps in place on a terminal, lines in a log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from mergesafe.log_lines import LogLines
from mergesafe.terminal.text import printable

if TYPE_CHECKING:
    from mergesafe.tune.search.problem import Progress


class Show:
    """Every step on a terminal, in place; in a log first steps, and a line every ten seconds."""

    def __init__(self) -> None:
        self._lines = LogLines()

    def __call__(self, moment: Progress) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{printable(moment.text)}", end="", file=sys.stderr, flush=True)
        else:
            moment.show(self._lines)


show: Final = Show()
