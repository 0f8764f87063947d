"""What an evaluation found: figures with intervals, comparisons, agreement, before rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mergesafe.results import evaluation as schema
from mergesafe.results.metrics import Kind, family
from mergesafe.results.writing import as_dict
from mergesafe.safety.statistics import (
    CONFIDENCE,
    Estimate,
    bootstrap_mean,
    proportion,
)
from mergesafe.summary import Summarised, Summary, counted


@dataclass(frozen=True)
class Figure:
    """A metric of one model on one set, or on all sets of a role.

    ``outcomes``: one number a question, its mean over the seeds. ``undecided``: how many verdicts
    were; each was counted against the model. The interval of a rate is Wilson's, with the bootstrap
    beside it unless all outcomes agree; that of a mean is the bootstrap's.
    """

    kind: Kind
    outcomes: tuple[float, ...]
    estimate: Estimate
    undecided: int = 0
    bootstrap: Estimate | None = None

    @classmethod
    def of(
        cls,
        kind: Kind,
        outcomes: Sequence[float],
        confidence: float = CONFIDENCE,
        undecided: int = 0,
    ) -> Figure:
        """The figure of these outcomes."""
        resampled = bootstrap_mean(outcomes, confidence)
        if kind == "mean":
            return cls(kind, tuple(outcomes), resampled, undecided)
        # Where all outcomes agree, so do all resamples: [1, 1] is no interval of a sample.
        beside = resampled if resampled.low < resampled.high else None
        return cls(kind, tuple(outcomes), proportion(outcomes, confidence), undecided, beside)

    def document(self) -> schema.Figure:
        """As it is written, rounded; without the outcomes."""
        found, beside = self.estimate.rounded(), self.bootstrap and self.bootstrap.rounded()
        bounds = None if beside is None else schema.Bounds(beside.low, beside.high)
        return schema.Figure(
            found.value, found.low, found.high, found.n, self.kind, self.undecided, bounds
        )


@dataclass(frozen=True)
class ModelResult:
    """One model: its figures by metric, and its answers.

    ``other_judges``: the figures that depend on a judge, by every judge but the first.
    ``reference``: where a model was read from, by which a report tells merges from their parents.
    """

    name: str
    identity: str
    figures: Mapping[str, Figure]
    examples: Sequence[schema.Example] = ()
    other_judges: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    reference: str | None = None

    def document(self) -> schema.EvaluatedModel:
        """As it is written: figures rounded, outcomes beside them."""
        return schema.EvaluatedModel(
            name=self.name,
            reference=self.reference,
            identity=self.identity,
            metrics={metric: each.document() for metric, each in self.figures.items()},
            other_judges={
                judge: {metric: each.document() for metric, each in figures.items()}
                for judge, figures in self.other_judges.items()
            },
            outcomes={m: [_short(x) for x in f.outcomes] for m, f in self.figures.items()},
            examples=list(self.examples),
        )


@dataclass(frozen=True)
class Comparison:
    """``metric`` of the first model minus that of the second, on the same questions.

    ``p``: of the paired permutation test, on its own. ``p_holm``: corrected for all comparisons of
    the evaluation, by Holm's method.
    """

    first: str
    second: str
    metric: str
    estimate: Estimate
    p: float
    p_holm: float = 1.0

    def document(self) -> schema.Comparison:
        """As it is written, rounded."""
        found = self.estimate.rounded()
        p, corrected = (float(f"{each:.4g}") for each in (self.p, self.p_holm))
        return schema.Comparison(
            self.first, self.second, self.metric, found.value, found.low, found.high, p, corrected,
            found.n,
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class Evaluation(Summarised):
    """Models on sets by judges. ``settings``: how it was asked; ``notes``: what to know.

    ``meaning``: of a metric that is not what its name says with this judge. ``judge_errors``: what
    was measured of the judges before, on other models' answers.
    """

    settings: schema.Settings
    judges: Sequence[schema.JudgeName]
    sets: Sequence[schema.QuestionSet]
    models: Sequence[ModelResult]
    comparisons: Sequence[Comparison] = ()
    agreement: Sequence[schema.Agreement] = ()
    notes: Sequence[str] = ()
    meaning: Mapping[str, str] = field(default_factory=dict)
    calibration: Sequence[schema.JudgeCalibration] = ()
    judge_errors: Sequence[schema.JudgeErrors] = ()

    def shown(self, metrics: Iterable[str]) -> list[str]:
        """``metrics`` without those that only repeat another one under a name they do not earn."""
        return [each for each in metrics if family(each) not in self.meaning]

    def document(self) -> schema.Evaluation:
        """The document of kind ``evaluation``."""
        return schema.Evaluation(
            settings=self.settings,
            judges=list(self.judges),
            meaning=dict(self.meaning),
            sets=list(self.sets),
            models=[each.document() for each in self.models],
            comparisons=[each.document() for each in self.comparisons],
            agreement=list(self.agreement),
            calibration=list(self.calibration),
            judge_errors=list(self.judge_errors),
            notes=list(self.notes),
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as what ``json.dumps`` takes."""
        return as_dict(self.document())

    def summary(self) -> Summary:
        metrics = self.shown(dict.fromkeys(m for each in self.models for m in each.figures))
        names = ", ".join(each.name for each in self.models)
        judges = ", ".join(each.name for each in self.judges)
        return Summary(
            f"{names} on {counted(len(self.sets), 'set')}, judged by {judges or 'nobody'}",
            ("model", *metrics),
            [
                (each.name, *(_cell(each.figures.get(metric)) for metric in metrics))
                for each in self.models
            ],
            self.notes,
        )


def _cell(figure: Figure | None) -> str:
    """A figure with its interval."""
    if figure is None:
        return ""
    found = figure.estimate
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}], n = {found.n}"


def _short(value: float) -> float | int:
    return int(value) if value in (0, 1) else round(value, 6)
