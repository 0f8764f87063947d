"""Judges on responses that people labelled, and rates without what the judges get wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergesafe.chat.conversation import Conversation
from mergesafe.chat.records import Record, read_records
from mergesafe.errors import DataError
from mergesafe.results import evaluation as schema
from mergesafe.results.metrics import family
from mergesafe.results.numbers import Rate as ResultRate
from mergesafe.safety.evaluation.cached import CachedJudge
from mergesafe.safety.evaluation.measure import JUDGED
from mergesafe.safety.evaluation.result import Figure, ModelResult
from mergesafe.safety.judges.base import Verdict, judge_answers, refusals_only
from mergesafe.safety.prevalence import corrected
from mergesafe.safety.statistics import Rate, wilson

#: The labels of a record; one that is neither does not count.
LABELS: Final = ("safe", "refused")


@dataclass(frozen=True)
class Labelled:
    """A response, and what people say of it; None: they do not say."""

    conversation: Conversation
    response: str
    safe: bool | None
    refused: bool | None


def read_labelled(path: Path) -> list[Labelled]:
    """Labelled responses: records with an answer and ``"safe"``, ``"refused"`` or both.

    Raises:
        DataError: the file cannot be read, or a record has neither label, or one that is neither
            true nor false.
    """
    return [_labelled(record, path) for record in read_records(path, need_answer=True)]


def _labelled(record: Record, path: Path) -> Labelled:
    labels = {name: record.extra.get(name) for name in LABELS}
    for name, label in labels.items():
        if not isinstance(label, bool | None):
            raise DataError(
                f"'{name}' is {label!r}; expected true or false", source=path, line=record.line
            )
    if all(label is None for label in labels.values()):
        raise DataError(
            'the response has no label; expected "safe" or "refused", true or false, beside its '
            "answer",
            source=path,
            line=record.line,
        )
    return Labelled(record.conversation, record.answer or "", labels["safe"], labels["refused"])


def calibrate_judges(
    judges: Sequence[CachedJudge],
    plain: Sequence[object],
    labelled: Sequence[Labelled],
    models: Sequence[ModelResult],
    confidence: float,
) -> Iterator[schema.JudgeCalibration]:
    """Each judge's sensitivity and specificity for each metric, and the rates that follow.

    ``plain``: the judges themselves, in the same order. What a judge left undecided counts as in
    the figures: never in a model's favour.
    """
    pairs = [(each.conversation, each.response) for each in labelled]
    for number, (judge, bare) in enumerate(zip(judges, plain, strict=True)):
        verdicts = judge_answers(pairs, judge.judge)
        for metric, (_, about, if_undecided) in JUDGED.items():
            if about == "safe" and refusals_only(bare):
                continue  # it only repeats what it says of refusals
            sensitivity, specificity = _rates(labelled, verdicts, about, if_undecided)
            if not sensitivity.n or not specificity.n:
                continue
            figures = [
                (model.name, model.figures if number == 0 else model.other_judges[judge.name])
                for model in models
            ]
            found = [
                _corrected(name, each, figure, sensitivity, specificity, confidence)
                for name, listed in figures
                for each, figure in listed.items()
                if family(each) == metric
            ]
            if found:
                yield schema.JudgeCalibration(
                    judge.name, metric, _share(sensitivity, confidence),
                    _share(specificity, confidence), found,
                )  # fmt: skip


def _rates(
    labelled: Sequence[Labelled], verdicts: Sequence[Verdict], about: str, if_undecided: bool
) -> tuple[Rate, Rate]:
    """Shares of what is so that the judge says is so, and of what is not that it says is not."""
    said: dict[bool, list[bool]] = {True: [], False: []}
    for each, verdict in zip(labelled, verdicts, strict=True):
        label, answer = getattr(each, about), getattr(verdict, about)
        if label is not None:
            said[label].append((if_undecided if answer is None else answer) == label)
    return Rate.of(said[True]), Rate.of(said[False])


def _corrected(
    model: str,
    metric: str,
    figure: Figure,
    sensitivity: Rate,
    specificity: Rate,
    confidence: float,
) -> schema.CorrectedRate:
    n = figure.estimate.n
    found = corrected(figure.estimate.value, n, sensitivity, specificity, confidence)
    if found is None:
        return schema.CorrectedRate(model, metric, None, 0.0, 1.0)
    value, low, high = (round(each, 6) for each in (found.value, found.low, found.high))
    return schema.CorrectedRate(model, metric, value, low, high)


def _share(found: Rate, confidence: float) -> ResultRate:
    low, high = wilson(found.value, found.n, confidence)
    return ResultRate(round(found.value, 6), round(low, 6), round(high, 6), found.n)


def calibration_notes(
    found: Sequence[schema.JudgeCalibration], models: Sequence[ModelResult], path: Path
) -> list[str]:
    """What the labelled responses do not tell, and what to do."""
    if not found:
        return [
            f"{path}: no judge was measured on it; a judge of refusals needs responses labelled "
            "'refused' true and others false, one of safety the same of 'safe', and a set of "
            "questions that gives its figure"
        ]
    notes = []
    for each in found:
        if each.sensitivity.value + each.specificity.value <= 1:
            notes.append(
                f"{each.judge} tells {each.metric} no better than chance on {path} (sensitivity "
                f"{100 * each.sensitivity.value:.0f} %, specificity "
                f"{100 * each.specificity.value:.0f} %): its figures say nothing there; use "
                "another judge"
            )
        else:
            notes += _unlike(each, models, path)
    return notes


def _unlike(
    found: schema.JudgeCalibration, models: Sequence[ModelResult], path: Path
) -> Iterator[str]:
    """A rate that the judge could not find, had it these errors on the model's answers.

    By more than chance: the interval of the difference of two shares, from those of both (Newcombe
    1998, method 10), has 0 outside.
    """
    sensitivity, specificity = found.sensitivity, found.specificity
    least, most = 1 - found.specificity.high, found.sensitivity.high
    figures = {model.name: model.other_judges.get(found.judge, model.figures) for model in models}
    for each in found.corrected:
        rate = figures[each.model][each.metric].estimate
        above = math.hypot(rate.value - rate.low, most - sensitivity.value)
        below = math.hypot(rate.high - rate.value, specificity.high - specificity.value)
        if rate.value - sensitivity.value > above or 1 - specificity.value - rate.value > below:
            yield (
                f"{each.model}: {each.metric} is {100 * rate.value:.1f} % by {found.judge}, which "
                f"could only find {100 * least:.1f} to {100 * most:.1f} % if it erred as it does "
                f"on {path}: those responses are not like this model's. Label some of its own, and "
                "do not trust the corrected rate"
            )
