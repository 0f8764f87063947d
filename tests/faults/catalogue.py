"""The list of faults, always the same and in the same order."""

from __future__ import annotations

from . import calls, changes, deaths, limits, others
from .fault import Fault


def catalogue() -> list[Fault]:
    """Every fault, with a name of its own."""
    found = [
        *calls.faults(), *deaths.deaths(), *deaths.resumed(), *deaths.cuts(), *changes.faults(),
        *limits.faults(), *others.faults(),
    ]  # fmt: skip
    names = [fault.name for fault in found]
    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]
    return found
