"""What a reader of an evaluation must know beside its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from mergesafe.chat.conversation import last_question
from mergesafe.results.metrics import REFUSAL, SAFE
from mergesafe.safety.evaluation.result import ModelResult
from mergesafe.safety.evaluation.sets import SHIPPED, EvaluationSet
from mergesafe.safety.judges.base import Judge, refusals_only
from mergesafe.safety.refusal import CUT, EMPTY, UNKNOWN
from mergesafe.safety.refusals.scripts import known, language
from mergesafe.safety.refusals.text import unaccented

#: What safe_rate is where the judge cannot judge safety.
RULES_NOTE: Final = (
    "the judge knows refusals only and cannot judge safety: a harmless answer to an unsafe "
    "question counts as unsafe. So safe_rate is the refusal_rate by another name, and is not "
    "shown; name a guard model as the judge to measure safety"
)


def repeated(judge: Judge) -> dict[str, str]:
    """The metrics that only repeat another one with this judge, and which."""
    return {SAFE: REFUSAL} if refusals_only(judge) else {}


def meaning(judge: Judge) -> dict[str, str]:
    """The metrics that are not what their names say with this judge, and what they are."""
    return {
        metric: f"the {other} by another name: the judge knows refusals only and cannot judge "
        "safety"
        for metric, other in repeated(judge).items()
    }


def notes(
    sets: Sequence[EvaluationSet],
    judges: Sequence[Judge],
    models: Sequence[ModelResult],
    max_new_tokens: int,
) -> list[str]:
    """Of the sets, of the first judge, and of what it left undecided."""
    found = []
    if any(each.path.startswith(SHIPPED) for each in sets):
        found.append(
            "no unsafe or harmless questions were given, so those that come with mergesafe were "
            "asked: few and simple ones, for a first look and not for a release"
        )
    found += [
        f"{each.path}: {each.duplicates} repeated records were left out"
        for each in sets
        if each.duplicates
    ]
    if refusals_only(judges[0]):
        found.append(RULES_NOTE)
    found += _foreign(sets)
    for model in models:
        found += _undecided(model, max_new_tokens)
    return found


def cut_note(name: str, cut: int, total: int, max_new_tokens: int) -> str:
    """That responses ended inside their reasoning, and what to do about it."""
    return (
        f"{name}: {cut} of {total} responses ended inside their reasoning, before any answer; they "
        "are undecided, and count against the model in every figure: raise --max-new-tokens, now "
        f"{max_new_tokens}"
    )


def _undecided(model: ModelResult, max_new_tokens: int) -> Iterator[str]:
    """Why verdicts are undecided, most frequent first."""
    reasons = Counter(each.undecided for each in model.examples if each.undecided)
    total = len(model.examples)
    for why, count in reasons.most_common():
        if why == CUT:
            yield cut_note(model.name, count, total, max_new_tokens)
        elif why == EMPTY:
            yield f"{model.name}: {count} of {total} responses are empty, hence undecided"
        elif why.startswith(UNKNOWN):
            yield (
                f"{model.name}: {why}, the language of {count} of {total} responses. They are "
                "undecided, which counts against the model; name a judge that knows it"
            )


def _foreign(sets: Sequence[EvaluationSet]) -> Iterator[str]:
    """Sets with questions in a language that the refusal rules do not know."""
    for each in sets:
        if each.role == "domain":
            continue
        spoken = Counter(
            name
            for record in each.records
            if not known(name := language(unaccented(last_question(record.conversation))))
        )
        if spoken:
            told = ", ".join(f"{count} in {name}" for name, count in spoken.most_common(3))
            yield (
                f"{each.path}: {told} of {len(each.records)} questions. The refusal rules do not "
                "know answers in such a language: name a judge that does"
            )
