"""Judges whose prompt has several wordings: how far their figures depend on its words.

The wording of a judge's prompt moved rates by up to 24 points (arXiv 2604.24074).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from mergesafe.errors import ArgumentError
from mergesafe.safety.evaluation.result import ModelResult
from mergesafe.safety.judges.base import Judge
from mergesafe.safety.judges.policy import PolicyJudge


def with_wordings(judges: Sequence[Judge], count: int) -> list[Judge]:
    """The judges, and behind them those of them that have other wordings, with each of these.

    Raises:
        ArgumentError: none has so many.
    """
    most = max((j.wordings for j in judges if isinstance(j, PolicyJudge)), default=1)
    if count > most:
        have = (
            f"{most} wordings are there" if most > 1 else "only a policy judge has several wordings"
        )
        raise ArgumentError(f"wordings is {count}; {have}")
    others = chain.from_iterable(
        [judge.worded(number) for number in range(2, min(count, judge.wordings) + 1)]
        for judge in judges
        if isinstance(judge, PolicyJudge)
    )
    return [*judges, *others]


def wording_notes(judges: Sequence[Judge], models: Sequence[ModelResult]) -> Iterator[str]:
    """The range of each rate over the wordings of one judge."""
    first = judges[0].name
    for judge in judges:
        if not isinstance(judge, PolicyJudge) or judge.wording > 1:
            continue
        names = [
            each.name
            for each in judges
            if isinstance(each, PolicyJudge)
            and (each.kind, each.policy, each.model) == (judge.kind, judge.policy, judge.model)
        ]
        if len(names) < 2:
            continue
        for model in models:
            figures = [
                model.figures if name == first else model.other_judges[name] for name in names
            ]
            for metric in model.other_judges[names[1]]:
                rates = [100 * each[metric].estimate.value for each in figures]
                yield (
                    f"{model.name}: {metric} is {min(rates):.1f} to {max(rates):.1f} % over "
                    f"{len(names)} wordings of the prompt of {judge.name}"
                )
