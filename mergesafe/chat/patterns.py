"""Which regular expressions of tokenizers can be matched in bounded time.

Tokenizers match by backtracking (Oniguruma), where a repeated group whose inside can be matched in
several ways takes a time that doubles with each letter. What splits text into words needs no such
thing: repetitions of characters and of fixed groups, side by side.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

MAX_LENGTH: Final = 10_000
#: Repetitions without an end side by side: each multiplies the time by the length of the text.
MAX_REPEATS: Final = 4
#: Ways to match what may be left out or chosen, side by side: each is tried.
MAX_WAYS: Final = 1_000_000
_MAX_DEPTH: Final = 50
_QUANTIFIER: Final = re.compile(r"[*+?][+?]?|\{(\d*)(,?)(\d*)\}[+?]?")
_OPENING: Final = re.compile(
    r"\((?:\?(?:[imxsaWDPSy-]*[:)]|<?[=!]|>|#[^)]*|<[A-Za-z_]\w*>|'\w+'))?"
)
_CLOSING: Final = re.compile(r"(?:\)(?:[*+?][+?]?)?)*(?:\||\Z)")
_REFERENCE: Final = re.compile(r"\\(?:[1-9]|[gk][<'{])")


@dataclass
class _Group:
    """An open group. ``ways`` in which one branch can be matched, but for ``repeats``, its
    repetitions without an end; ``all_ways`` and ``most_repeats``: of the branches before.
    """

    ways: float = 1
    repeats: int = 0
    all_ways: float = 0
    most_repeats: int = 0

    def next_branch(self) -> None:
        self.all_ways += self.ways
        self.most_repeats = max(self.most_repeats, self.repeats)
        self.ways, self.repeats = 1, 0


def problem_of(pattern: str) -> str | None:
    """Why the pattern may take for ever, or None; that it is valid, who compiles it finds out."""
    if len(pattern) > MAX_LENGTH:
        return f"has {len(pattern):,} characters"
    groups = [_Group()]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        closed: _Group | None = None
        if char == "\\":
            if _REFERENCE.match(pattern, at):
                return "refers back to what it has matched"
            at = _after_escape(pattern, at)
        elif char == "[":
            at = _after_class(pattern, at)
        elif char == "(":
            opened = _OPENING.match(pattern, at)
            at = opened.end() if opened else at + 1
            if opened is None or not opened.group().endswith(")"):  # (?i) has no inside
                groups.append(_Group())
            if len(groups) > _MAX_DEPTH:
                return "is nested too deeply"
            continue
        elif char == ")":
            closed = groups.pop() if len(groups) > 1 else _Group()
            closed.next_branch()
            at += 1
        elif char == "|":
            groups[-1].next_branch()
            at += 1
            continue
        else:
            at += 1
        at, problem = _repeated(pattern, at, closed, groups[-1], len(groups) - 1)
        if problem is not None:
            return problem
    return None


def _repeated(
    pattern: str, at: int, closed: _Group | None, around: _Group, depth: int
) -> tuple[int, str | None]:
    """Where the quantifiers that follow end, and what is wrong with them."""
    ways = closed.all_ways if closed else 1
    repeats = closed.most_repeats if closed else 0
    while quantifier := _QUANTIFIER.match(pattern, at):
        at = quantifier.end()
        least, most = _times(quantifier)
        if most > 1 and (repeats or (most == math.inf and ways > 1)):
            if not _is_last(pattern, at, depth):
                return at, "repeats a group whose inside can be matched in several ways"
            ways = 1
        if most == math.inf:
            repeats += 1
        elif ways > 1 and most > 64:
            ways = math.inf
        else:
            ways = ways**most * (most - least + 1)
    around.ways *= ways
    around.repeats += repeats
    if around.repeats > MAX_REPEATS:
        return at, f"has more than {MAX_REPEATS} repetitions without an end side by side"
    if around.ways > MAX_WAYS:
        return at, f"can be matched in more than {MAX_WAYS:,} ways"
    return at, None


def _is_last(pattern: str, at: int, depth: int) -> bool:
    """Whether nothing follows that may fail, so that no other way is tried: all ``depth`` open
    groups end there, and the pattern or its branch does.
    """
    closing = _CLOSING.match(pattern, at)
    return closing is not None and closing.group().count(")") == depth


def _times(quantifier: re.Match[str]) -> tuple[float, float]:
    """How often at least and at most."""
    least, comma, most = quantifier.groups()
    if least is None:
        sign = quantifier.group()[0]
        return float(sign == "+"), 1.0 if sign == "?" else math.inf
    begin = float(least or 0)
    return begin, begin if not comma else float(most) if most else math.inf


def _after_escape(pattern: str, at: int) -> int:
    if pattern[at + 1 : at + 2] in ("p", "P", "x", "u") and pattern[at + 2 : at + 3] == "{":
        end = pattern.find("}", at)
        return len(pattern) if end < 0 else end + 1
    return at + 2


def _after_class(pattern: str, at: int) -> int:
    """Behind a class of characters, which may hold others (``[a[bc]&&[^d]]``)."""
    depth = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at = _after_escape(pattern, at)
            continue
        if char == "[":
            depth += 1
            if pattern[at + 1 : at + 2] == "^":
                at += 1
            if pattern[at + 1 : at + 2] == "]":
                at += 1
        elif char == "]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at
