"""Progress where standard error is no terminal: now and then a line, for logs."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from threading import Lock
from typing import Final, TypeAlias

from mergesafe.references import redact_text

#: Seconds between two lines.
SECONDS: Final = 10.0
#: How texts say how far something is: "merged: 40 of 120 responses".
_COUNTED: Final = re.compile(r":? (?P<done>[0-9][0-9,]{0,20}) of (?P<total>[0-9][0-9,]{0,20})\b")

#: Called with what is being done, as one line of text.
Tell: TypeAlias = Callable[[str], None]
#: Called with what is being done, how much of it is done, and of how much.
Count: TypeAlias = Callable[[str, int, int], None]

#: Called after every epoch of a training with its number, its loss and that on held-out questions.
Epoch: TypeAlias = Callable[[int, float, float], None]


def printable(message: str) -> str:
    """One line without secrets: names of tensors and files come from strangers and may hold
    terminal commands.
    """
    return redact_text("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class LogLines:
    """Prints, at most every :data:`SECONDS`, what is done, its share, and the time left.

    Time left is what the part of it that was watched took, times what remains. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._printed = time.monotonic()
        #: What is done -> when it was first told of, and how much of it was done then.
        self._begun: dict[str, tuple[float, float]] = {}

    def __call__(self, what: str, done: float, total: float) -> None:
        """``done`` of ``total`` of ``what``, in any unit."""
        self._tell(what, done / total if total > 0 else 1.0, what)

    def say(self, text: str) -> None:
        """A line of one's own; "N of M" in it gives the share."""
        found = _COUNTED.search(text)
        if found is None:
            self._tell(text, None, text)
            return
        done, total = (int(found[key].replace(",", "")) for key in ("done", "total"))
        self._tell(text[: found.start()], done / total if total else 1.0, text)

    def share(self, what: str, share: float | None, text: str, *, at_once: bool = False) -> None:
        """``text`` about ``what``, of which a share in [0, 1] is done, if that is known.

        ``at_once``: without waiting for ten seconds to pass.
        """
        self._tell(what, share, text, at_once)

    def stop(self) -> None:
        """Nothing: lines stay."""

    def _tell(self, what: str, share: float | None, text: str, at_once: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            began, first = self._begun.setdefault(what, (now, share or 0.0))
            if now - self._printed < SECONDS and not at_once:
                return
            self._printed = now
        print(printable(f"{text}{_far(share, first, now - began)}"), file=sys.stderr, flush=True)


def _far(share: float | None, first: float, seconds: float) -> str:
    """``: 40 %, about 3 min left``."""
    if share is None:
        return ""
    left = ""
    if share > first and share < 1.0:
        left = f", about {duration(seconds / (share - first) * (1.0 - share))} left"
    return f": {share:.0%}{left}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def told(progress: Tell | bool | None) -> Tell:
    """What is called with what is being done, for an argument ``progress``: True prints lines."""
    if progress is None or progress is False:
        return _ignore
    return LogLines().say if progress is True else progress


def counted(progress: Count | bool | None) -> Count:
    """The same of what is told in numbers."""
    if progress is None or progress is False:
        return _ignore
    return LogLines() if progress is True else progress


def of_epochs(progress: Epoch | bool | None) -> Epoch | None:
    """The same of a training: True prints a line for each epoch."""
    return _epoch if progress is True else progress or None


def _epoch(number: int, loss: float, held: float) -> None:
    text = f"epoch {number}: loss {loss:.3f}, on held-out questions {held:.3f}"
    print(text, file=sys.stderr, flush=True)


def _ignore(*what: object) -> None:
    """Nobody asked."""
