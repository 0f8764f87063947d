"""Which merges of a recipe's experts are probed.

Parents that each behave can give an unsafe merge (MergeBackdoor, USENIX Security 2025), and what an
expert adds may turn with its strength (LoBAM, arXiv 2411.16746, amplifies it on purpose). So
experts are merged two at a time, all but one, and each alone: base + λ Σ τ, τ = expert − base, at
several λ, whatever the recipe's method. The recipe itself is merged as it is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from mergesafe.errors import ArgumentError

#: λ of base + λ Σ τ.
STRENGTHS: Final = (0.3, 0.5, 1.0)
#: λ that anyone merges with.
_LARGEST: Final = 10.0


@dataclass(frozen=True)
class Probe:
    """A merge of ``members``, at ``strength`` λ; None for the recipe as it is written."""

    members: tuple[str, ...]
    strength: float | None = None

    @property
    def name(self) -> str:
        """``maths + code at 0.5``, or ``the recipe``."""
        if self.strength is None:
            return "the recipe"
        return f"{' + '.join(self.members)} at {self.strength:g}"


def probes_of(names: Sequence[str], strengths: Sequence[float]) -> list[Probe]:
    """The recipe itself, every pair, all experts but one, and each alone, at every strength.

    An expert alone at strength 1 is the parent, which is asked in any case. What is the same set
    of experts is probed once.
    """
    everyone = tuple(names)
    sets = [
        *combinations(everyone, 2),
        *(tuple(n for n in everyone if n != out) for out in everyone if len(everyone) > 2),
        *((name,) for name in everyone),
    ]
    found = [
        Probe(each, strength)
        for each in dict.fromkeys(sets)
        for strength in strengths
        if len(each) > 1 or strength != 1
    ]
    return [Probe(everyone), *found]


def recipe_of(probe: Probe, base: str, references: Mapping[str, str]) -> dict[str, Any]:
    """The recipe of a probe that is not the recipe itself; ``references`` by the experts' names."""
    weight = {"weight": probe.strength}
    models = [{"model": references[name], "parameters": weight} for name in probe.members]
    return {"merge_method": "task_arithmetic", "base_model": base, "models": models}


def check_strengths(strengths: Sequence[float]) -> tuple[float, ...]:
    """λ in ascending order, each once.

    Raises:
        ArgumentError: there is none, or one is no number above 0.
    """
    for each in strengths:
        known = isinstance(each, int | float) and not isinstance(each, bool)
        if not known or not (math.isfinite(each) and 0 < each <= _LARGEST):
            raise ArgumentError(
                f"strength {each!r}: expected numbers above 0, to {_LARGEST:g}, such as 0.3,0.5,1"
            )
    if not strengths:
        raise ArgumentError("there is no strength to merge with; give some, such as 0.3,0.5,1")
    return tuple(sorted({float(each) for each in strengths}))
