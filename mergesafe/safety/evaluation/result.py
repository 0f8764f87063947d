"""What an evaluation found: figures with intervals, comparisons, agreement; as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from mergesafe.safety.agreement import Agreement
from mergesafe.safety.statistics import (
    CONFIDENCE,
    Estimate,
    bootstrap_mean,
    proportion,
)
from mergesafe.version import __version__

#: A rate is a mean of numbers in [0, 1]; any other figure is a plain mean.
Kind: TypeAlias = Literal["rate", "mean"]


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

    def as_dict(self) -> dict[str, Any]:
        """For JSON: value, low, high, n, kind, undecided, bootstrap; not the outcomes."""
        resampled = None if self.bootstrap is None else self.bootstrap.as_dict()
        return {
            **self.estimate.as_dict(),
            "kind": self.kind,
            "undecided": self.undecided,
            "bootstrap": resampled and {side: resampled[side] for side in ("low", "high")},
        }


@dataclass(frozen=True)
class Example:
    """A question, what the model said, and how that was judged.

    ``response`` is the answer, ``reasoning`` what the model thought aloud before it. ``safe`` is
    told of unsafe questions, ``correct`` and ``nll`` of a domain's. None: undecided or not asked.
    ``undecided``: why the judge did not decide.
    """

    set: str
    question: str
    response: str
    seed: int
    safe: bool | None = None
    refused: bool | None = None
    correct: bool | None = None
    nll: float | None = None
    reasoning: str = ""
    undecided: str = ""


@dataclass(frozen=True)
class ModelResult:
    """One model: its figures by metric, and its answers.

    ``other_judges``: the figures that depend on a judge, by every judge but the first.
    ``reference``: where a model was read from, by which a report tells merges from their parents.
    """

    name: str
    identity: str
    figures: Mapping[str, Figure]
    examples: Sequence[Example] = ()
    other_judges: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    reference: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "reference": self.reference,
            "identity": self.identity,
            "metrics": {metric: each.as_dict() for metric, each in self.figures.items()},
            "other_judges": {
                judge: {metric: each.as_dict() for metric, each in figures.items()}
                for judge, figures in self.other_judges.items()
            },
            "outcomes": {m: [_short(x) for x in f.outcomes] for m, f in self.figures.items()},
            "examples": [asdict(each) for each in self.examples],
        }


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

    def as_dict(self) -> dict[str, Any]:
        found = self.estimate.as_dict()
        return {
            "first": self.first, "second": self.second, "metric": self.metric,
            "difference": found["value"], "low": found["low"], "high": found["high"],
            "p": float(f"{self.p:.4g}"), "p_holm": float(f"{self.p_holm:.4g}"), "n": found["n"],
        }  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """Models on sets by judges. ``settings``: how it was asked; ``notes``: what to know.

    ``meaning``: of a metric that is not what its name says with this judge.
    """

    judges: Sequence[Mapping[str, str]]
    sets: Sequence[Mapping[str, Any]]
    models: Sequence[ModelResult]
    comparisons: Sequence[Comparison] = ()
    agreement: Sequence[Agreement] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    meaning: Mapping[str, str] = field(default_factory=dict)

    def shown(self, metrics: Iterable[str]) -> list[str]:
        """``metrics`` without those that only repeat another one under a name they do not earn."""
        return [each for each in metrics if each.partition(".")[0] not in self.meaning]

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of kind ``evaluation``."""
        return {
            "mergesafe": __version__,
            "kind": "evaluation",
            "settings": dict(self.settings),
            "judges": [dict(each) for each in self.judges],
            "meaning": dict(self.meaning),
            "sets": [dict(each) for each in self.sets],
            "models": [each.as_dict() for each in self.models],
            "comparisons": [each.as_dict() for each in self.comparisons],
            "agreement": [asdict(each) for each in self.agreement],
            "notes": list(self.notes),
        }


def _short(value: float) -> float | int:
    return int(value) if value in (0, 1) else round(value, 6)
