"""Patterns of module names that an adapter brings: matched as PEFT matches them, in bounded time.

Keys of ``rank_pattern`` and ``alpha_pattern`` are regular expressions to PEFT, which looks for
``(.*\\.)?(KEY)$``. Nearly all are plain names or ends of names, in which only the dot is special;
these are looked up. The others are matched in a process of its own, which is stopped: the time that
an expression takes can grow exponentially.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.errors import GuardedError

#: Seconds for all expressions and names together; those of a large model take milliseconds.
SECONDS: Final = 3.0
_SPECIAL: Final = re.compile(r"[\\^$*+?{}\[\]|()\n]")
_FUNCTION: Final = "mergesafe.checkpoint.format.patterns:search"


class PatternError(Exception):
    """A pattern that cannot be matched; ``why`` is the end of a sentence about ``pattern``.

    ``number``: its place among those that were given.
    """

    def __init__(self, pattern: str, why: str, number: int = 0):
        self.pattern, self.why, self.number = pattern, why, number
        super().__init__(f"{pattern!r} {why}")


@dataclass(frozen=True)
class Invalid:
    """In place of what an expression matches: it is none."""

    why: str


def matches(
    patterns: Sequence[str], names: Sequence[str], seconds: float = SECONDS
) -> list[list[int]]:
    """For each of PEFT's patterns the numbers of the names that it matches, in order.

    Raises:
        PatternError: one is no regular expression, or takes too much time or memory.
    """
    broken = any("\n" in name for name in names)  # a dot matches anything else
    plain = {n: p for n, p in enumerate(patterns) if not broken and not _SPECIAL.search(p)}
    found = _looked_up(plain, names, seconds)
    others = [n for n in range(len(patterns)) if n not in plain]
    try:
        searched = expressions(
            [rf"(.*\.)?({patterns[n]})$" for n in others], names, seconds=seconds, whole=False
        )
    except PatternError as error:
        raise PatternError(patterns[others[error.number]], error.why, error.number) from None
    for number, each in zip(others, searched, strict=True):
        if isinstance(each, Invalid):
            raise PatternError(patterns[number], f"is no regular expression ({each.why})")
        found[number] = each
    return [found[number] for number in range(len(patterns))]


def expressions(
    patterns: Sequence[str], names: Sequence[str], *, whole: bool, seconds: float = SECONDS
) -> list[list[int] | Invalid]:
    """For each regular expression the numbers of the names that it matches.

    ``whole``: from end to end, else at the beginning.

    Raises:
        PatternError: one takes too much time or memory; where it cannot be told which, the first.
    """
    if not patterns:
        return []
    from mergesafe.guarded import guarded

    given = {"patterns": list(patterns), "names": list(names), "whole": whole, "seconds": seconds}
    try:
        found, slow = guarded(_FUNCTION, given, seconds=seconds + 1, memory=1 << 29)
    except GuardedError as error:
        raise PatternError(patterns[0], f"cannot be matched: {error}") from None
    if slow is not None:
        raise PatternError(patterns[slow], f"takes more than {seconds:g} s to match", slow)
    return [Invalid(each) if isinstance(each, str) else each for each in found]


def _looked_up(
    patterns: Mapping[int, str], names: Sequence[str], seconds: float
) -> dict[int, list[int]]:
    """As PEFT matches patterns in which only the dot is special: a name matches if it ends so,
    from its beginning or after a dot.

    Patterns of one length with dots at the same places are one table, in which those places of a
    name are blank.
    """
    found: dict[int, list[int]] = {number: [] for number in patterns}
    tables: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}
    for number, pattern in patterns.items():
        dots = tuple(at for at, sign in enumerate(pattern) if sign == ".")
        tables.setdefault(len(pattern), {}).setdefault(dots, {})[pattern] = number
    end = time.monotonic() + seconds
    for place, name in enumerate(names):
        for length, tables_of_length in tables.items():
            start = len(name) - length
            if start < 0 or (start > 0 and name[start - 1] != "."):
                continue
            part = name[start:]
            for dots, table in tables_of_length.items():
                hit = table.get(_dotted(part, dots))
                if hit is not None:
                    found[hit].append(place)
        if time.monotonic() > end:
            raise PatternError(next(iter(patterns.values())), "and others take too long to match")
    return found


def _dotted(text: str, dots: Sequence[int]) -> str:
    """``text`` with a dot at these places."""
    if all(text[at] == "." for at in dots):
        return text
    signs = list(text)
    for at in dots:
        signs[at] = "."
    return "".join(signs)


class _Slow(BaseException):
    """The time is over; expressions look at signals now and then."""


def search(given: Mapping[str, Any]) -> tuple[list[list[int] | str], int | None]:
    """What is run in the process of its own: what each pattern matches, or why it is none.

    Also the number of the pattern at which the time was over, if it was.
    """

    def stop(number: int, frame: object) -> None:
        raise _Slow

    found: list[list[int] | str] = []
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, given["seconds"])
    try:
        for pattern in given["patterns"]:
            try:
                compiled = re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                found.append(str(error) or type(error).__name__)
                continue
            match = compiled.fullmatch if given["whole"] else compiled.match
            found.append([n for n, name in enumerate(given["names"]) if match(name)])
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _Slow:
        return found, len(found)
    return found, None
