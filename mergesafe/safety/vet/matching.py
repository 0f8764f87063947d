"""Regular expressions of strangers, matched where they can be stopped."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.checkpoint.format.patterns import Invalid, PatternError, expressions, matches


def full_matches(pattern: str, names: Sequence[str]) -> set[str] | None:
    """The names that an expression matches from end to end; None where it is none, or too slow."""
    try:
        [found] = expressions([pattern], names, whole=True)
    except PatternError:
        return None
    return None if isinstance(found, Invalid) else {names[number] for number in found}


def idle(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The patterns of PEFT that match none of the names.

    Raises:
        PatternError: one is no pattern, or takes too long to match.
    """
    found = matches(patterns, names)
    return [text for text, numbers in zip(patterns, found, strict=True) if not numbers]
