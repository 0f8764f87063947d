"""Judges by name, as data files, ``evaluate`` and constraints write them."""

from __future__ import annotations

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.safety.judges.base import Judge
from mergesafe.safety.judges.rules import RefusalRules


def make_judge(spec: str) -> Judge:
    """The judge that ``spec`` names: ``KIND`` or ``KIND:MODEL``.

    Raises:
        ArgumentError: there is no such kind.
    """
    kind, _, _ = spec.partition(":")
    if kind != "rules":
        raise ArgumentError(f"judge {spec!r}: unknown kind{did_you_mean(kind, ['rules'])}")
    return RefusalRules()
