"""How far judges agree beyond chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

from mergesafe.errors import ArgumentError
from mergesafe.results.evaluation import About, Agreement
from mergesafe.safety.judges.base import Verdict

_ABOUT: Final[tuple[About, ...]] = ("safe", "refused")


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """κ = (p_o − p_e) / (1 − p_e) (Cohen 1960).

    p_o is the share of cases with equal answers, p_e the share expected of two judges who answer
    independently, each with its own share of yes. 1: always equal; 0: as by chance; below: worse.
    None without a case, and where p_e = 1. (scikit-learn would be one more package for five lines.)
    """
    n = len(first)
    if n != len(second):
        raise ArgumentError(f"cannot compare {n} answers with {len(second)}")
    if not n:
        return None
    equal = sum(a == b for a, b in zip(first, second, strict=True))
    yes_1, yes_2 = sum(first), sum(second)
    # In whole numbers, so that p_e = 1 is seen exactly: n² p_e.
    chance = yes_1 * yes_2 + (n - yes_1) * (n - yes_2)
    return None if chance == n * n else (equal * n - chance) / (n * n - chance)


def agreements(verdicts: Mapping[str, Sequence[Verdict]]) -> list[Agreement]:
    """κ of every two judges about safety and about refusal; what one left undecided is left out.

    ``verdicts``: by the judge's name, those over the same responses in the same order.
    """
    found = []
    for first, second in combinations(verdicts, 2):
        for about in _ABOUT:
            answers = [
                (getattr(a, about), getattr(b, about))
                for a, b in zip(verdicts[first], verdicts[second], strict=True)
            ]
            decided = [(a, b) for a, b in answers if a is not None and b is not None]
            kappa = cohen_kappa([a for a, _ in decided], [b for _, b in decided])
            found.append(Agreement(first, second, about, kappa, len(decided)))
    return found
