"""Which regular expressions of tokenizers can be matched in bounded time.

Tokenizers match by backtracking (Oniguruma), where a repeated group whose inside can be matched in
several ways takes a time that doubles with each letter. What splits text into words needs no such
thing: repetitions of characters and of fixed groups, side by side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_LENGTH: Final = 10_000
#: Repetitions without an end side by side: each multiplies the time by the length of the text.
MAX_REPEATS: Final = 4
_MAX_DEPTH: Final = 50
_QUANTIFIER: Final = re.compile(r"[*+?][+?]?|\{(\d*)(,?)(\d*)\}[+?]?")
_OPENING: Final = re.compile(
    r"\((?:\?(?:[imxsaWDPSy-]*[:)]|<?[=!]|>|#[^)]*|<[A-Za-z_]\w*>|'\w+'))?"
)
_REFERENCE: Final = re.compile(r"\\(?:[1-9]|[gk][<'{])")


@dataclass
class _Group:
    """An open group: whether what is in it can be matched in several ways."""

    several: bool = False
    repeats: int = 0


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
            at += 1
        elif char == "|":
            groups[-1].several = True
            groups[-1].repeats = 0
            at += 1
            continue
        else:
            at += 1
        at, problem = _repeated(pattern, at, closed, groups[-1])
        if problem is not None:
            return problem
    return None


def _repeated(
    pattern: str, at: int, closed: _Group | None, around: _Group
) -> tuple[int, str | None]:
    """Where the quantifiers that follow end, and what is wrong with them."""
    if closed is not None:
        around.several |= closed.several
        around.repeats += closed.repeats
    while quantifier := _QUANTIFIER.match(pattern, at):
        at = quantifier.end()
        least, comma, most = quantifier.groups()
        if least is None:
            fixed, without_end = False, quantifier.group()[0] in "*+"
        else:
            fixed, without_end = not comma, bool(comma) and not most
        once = quantifier.group()[0] == "?"
        if closed is not None and closed.several and not once:
            return at, "repeats a group whose inside can be matched in several ways"
        if not fixed:
            around.several = True
            # Of a second quantifier the inside is what the first one repeats.
            closed = _Group(several=True)
        around.repeats += without_end
        if around.repeats > MAX_REPEATS:
            return at, f"has more than {MAX_REPEATS} repetitions without an end side by side"
    return at, None


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
