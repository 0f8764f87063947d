"""An evaluation as it was written, decided on at another confidence."""

from __future__ import annotations

from collections.abc import Collection

from mergesafe.results import evaluation as schema
from mergesafe.safety.evaluation.result import Evaluation, Figure, ModelResult
from mergesafe.safety.statistics import Estimate, wilson


def at_confidence(
    written: schema.Evaluation, confidence: float, metrics: Collection[str]
) -> Evaluation:
    """The models and their figures, with intervals made anew at ``confidence`` for ``metrics``."""
    return Evaluation(
        written.settings,
        written.judges,
        written.sets,
        [_model(each, confidence, metrics) for each in written.models],
        meaning=written.meaning,
    )


def _model(
    written: schema.EvaluatedModel, confidence: float, metrics: Collection[str]
) -> ModelResult:
    figures = {}
    for metric, figure in written.metrics.items():
        outcomes = written.outcomes.get(metric, []) if metric in metrics else []
        figures[metric] = _figure(figure, outcomes, confidence)
    return ModelResult(written.name, written.identity, figures, reference=written.reference)


def _figure(written: schema.Figure, outcomes: list[float], confidence: float) -> Figure:
    """The figure of its outcomes; without them a rate's interval still follows from its value."""
    if outcomes:
        return Figure.of(written.kind, outcomes, confidence, written.undecided)
    low, high = written.low, written.high
    if written.kind == "rate":
        low, high = wilson(written.value, written.n, confidence)
        low, high = min(low, written.value), max(high, written.value)
    estimate = Estimate(written.value, low, high, written.n)
    return Figure(written.kind, (), estimate, written.undecided)
