"""What the long functions of this package tell a person who waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

#: Called with what is being done, as one line of text.
ProgressCallback: TypeAlias = Callable[[str], None]


@dataclass
class Together:
    """Tells how far several pieces of work are that come one after the other, of their sum.

    ``merged: 40 of 240 answers``: the time that is left is then that of all models and sets.
    """

    tell: ProgressCallback
    total: int
    finished: int = 0

    def of(self, name: str) -> Callable[[int, int], None]:
        """What a piece about ``name`` calls with how many of how many are done, at its end too."""

        def progress(done: int, total: int) -> None:
            self.tell(f"{name}: {self.finished + done:,} of {self.total:,} answers")
            if done == total:
                self.finished += total

        return progress


def numbered(tell: ProgressCallback, number: int, total: int) -> ProgressCallback:
    """``tell``, with which of ``total`` models it is about."""
    return lambda text: tell(f"{text} (model {number} of {total})")
