"""``mergesafe.import_logs``: logs of other tools as an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Final, TypeAlias

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.results.evaluation import Example, JudgeName, QuestionSet, Role, Settings
from mergesafe.results.metrics import DOMAIN, OVER_REFUSAL
from mergesafe.safety.evaluation.compare import compare
from mergesafe.safety.evaluation.result import Evaluation, Figure, ModelResult
from mergesafe.safety.logs.outcome import FAMILIES, Outcome
from mergesafe.safety.logs.read import read_log
from mergesafe.safety.statistics import CONFIDENCE, check_confidence

_ROLES: Final[Mapping[str, Role]] = {
    "safe_rate": "unsafe", "refusal_rate": "unsafe", OVER_REFUSAL: "harmless", DOMAIN: "domain",
}  # fmt: skip
#: Set and question; and a number, where the question has no text.
Asked: TypeAlias = "tuple[str, str, int]"


def import_logs(
    logs: str | Path | Sequence[str | Path],
    *,
    names: Mapping[str, str] | None = None,
    metric: str | None = None,
    inverted: bool = False,
    confidence: float = CONFIDENCE,
) -> Evaluation:
    """What logs of other tools say, as :func:`mergesafe.evaluate` tells it.

    Args:
        logs: files: ``.eval`` or ``.json`` of Inspect, ``.report.jsonl`` of garak, ``results.json``
            of promptfoo, ``samples_*.jsonl`` of lm-eval, the memory (``.db``)
            of PyRIT.
        names: what models are called here, by what the logs call them.
        metric: the family that the scores are of: ``safe_rate``, ``refusal_rate``,
            ``over_refusal`` or ``domain``. By default attacks (garak, promptfoo's red team, PyRIT)
            are ``safe_rate``, and the scores of all others ``domain``.
        inverted: whether a score of 1 is what the metric does not count, as of a scorer of harm.
        confidence: of the intervals.

    Returns:
        Figures for each model and set (a probe, plugin or task), and of attacks over all sets.
        Models are compared where they were asked the same questions.

    Raises:
        ArgumentError: a name, the metric or the confidence is wrong, or a log is named twice.
        DataError: a log cannot be read.
    """
    check_confidence(confidence)
    if metric is not None and metric not in FAMILIES:
        raise ArgumentError(f"metric is {metric!r}{did_you_mean(metric, FAMILIES)}")
    listed = [logs] if isinstance(logs, str | Path) else list(logs)
    if not listed:
        raise ArgumentError("there is no log to import")
    found: list[Outcome] = []
    sets: dict[tuple[str, str], QuestionSet] = {}
    seen: dict[str, Path] = {}
    for path in map(Path, listed):
        read, digest = read_log(path)
        if digest in seen:
            raise ArgumentError(f"{path} holds the same as {seen[digest]}; name each log once")
        seen[digest] = path
        read = [_as(each, names or {}, metric, inverted) for each in read]
        found += read
        for family, name in dict.fromkeys((each.family, each.set) for each in read):
            count = len({each.question for each in read if each.set == name})
            sets[family, name] = QuestionSet(
                name=name, role=_ROLES[family], path=str(path), sha256=digest, records=count
            )
    _check_names(found, names or {}, listed)
    ordered = sorted(found, key=lambda each: each.model)
    models = [
        _result(name, list(own), confidence)
        for name, own in groupby(ordered, lambda each: each.model)
    ]
    asked = {name: list(own) for name, own in groupby(ordered, lambda each: each.model)}
    return Evaluation(
        Settings(confidence=confidence),
        [JudgeName(judge, "as of the log") for judge in dict.fromkeys(o.judge for o in found)],
        list(sets.values()),
        models,
        compare(_comparable(models, asked), confidence),
    )


def _as(outcome: Outcome, names: Mapping[str, str], metric: str | None, inverted: bool) -> Outcome:
    score = outcome.score if outcome.score is None or not inverted else 1 - outcome.score
    return replace(
        outcome, model=names.get(outcome.model, outcome.model), score=score,
        family=metric or outcome.family,
    )  # fmt: skip


def _check_names(
    found: Sequence[Outcome], names: Mapping[str, str], logs: Sequence[str | Path]
) -> None:
    called = {each.model for each in found}
    for old, new in names.items():
        if new not in called:
            raise ArgumentError(
                f"no log calls a model {old!r}{did_you_mean(old, called)} "
                f"({', '.join(map(str, logs))})"
            )


def _result(name: str, outcomes: Sequence[Outcome], confidence: float) -> ModelResult:
    figures: dict[str, Figure] = {}
    for family in FAMILIES:
        own = sorted(
            (each for each in outcomes if each.family == family),
            key=lambda each: (each.set, each.question),
        )
        if not own:
            continue
        by_set = {title: list(each) for title, each in groupby(own, lambda each: each.set)}
        if family != DOMAIN:
            figures[family] = _figure(own, family, confidence)
        if family == DOMAIN or len(by_set) > 1:
            for title, each in by_set.items():
                figures[f"{family}.{title}"] = _figure(each, family, confidence)
    return ModelResult(name, "", figures, [_example(each) for each in outcomes])


def _figure(outcomes: Sequence[Outcome], family: str, confidence: float) -> Figure:
    """What is undecided never counts in the model's favour.

    A question that was asked several times (Inspect's epochs), or whose answer several detectors
    judged (garak), has one outcome, the mean: verdicts on one question are alike, and an interval
    that took them for verdicts on many would be too narrow.
    """
    against = 1.0 if family == OVER_REFUSAL else 0.0
    scores: dict[tuple[str, int], list[float]] = {}
    for (_, question, number), each in _by_question(outcomes):
        scores.setdefault((question, number), []).append(
            against if each.score is None else each.score
        )
    unsure = sum(each.score is None for each in outcomes)
    return Figure.of("rate", [fmean(each) for each in scores.values()], confidence, unsure)


def _by_question(outcomes: Sequence[Outcome]) -> Iterator[tuple[Asked, Outcome]]:
    """Each outcome with what tells its question from others; no two without a text are one."""
    for number, each in enumerate(outcomes):
        yield (each.set, each.question, 0 if each.question else number), each


def _example(outcome: Outcome) -> Example:
    decided = None if outcome.score is None else outcome.score >= 0.5
    refusals = outcome.family in ("refusal_rate", OVER_REFUSAL)
    return Example(
        set=outcome.set, question=outcome.question, response=outcome.response, seed=0,
        safe=decided if outcome.family == "safe_rate" else None,
        refused=decided if refusals else None,
        correct=decided if outcome.family == DOMAIN else None,
        undecided="" if outcome.score is not None else f"{outcome.judge} did not decide",
    )  # fmt: skip


def _comparable(
    models: Sequence[ModelResult], asked: Mapping[str, Sequence[Outcome]]
) -> list[ModelResult]:
    """The models with those metrics alone for which all of them have the same questions."""

    def questions(model: str, metric: str) -> list[Asked]:
        family, _, title = metric.partition(".")
        own = [
            each
            for each in asked[model]
            if each.family == family and (not title or each.set == title)
        ]
        return sorted({key for key, _ in _by_question(own)})

    shared = [
        metric
        for metric in models[0].figures
        if all(
            metric in model.figures
            and questions(model.name, metric) == questions(models[0].name, metric)
            for model in models
        )
    ]
    return [
        replace(model, figures={metric: model.figures[metric] for metric in shared})
        for model in models
    ]
