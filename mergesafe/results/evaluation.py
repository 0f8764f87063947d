"""What ``mergesafe evaluate`` writes, kind ``evaluation``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from mergesafe.results.metrics import Kind, check_kind
from mergesafe.results.numbers import (
    Confidence,
    Count,
    Integer,
    Number,
    Rate,
    Share,
    check_distinct,
    check_interval,
    slack,
)

Role = Literal["unsafe", "harmless", "domain"]
About = Literal["safe", "refused"]


class Bounds(msgspec.Struct, frozen=True):
    """The ends of an interval."""

    low: Number
    high: Number

    def __post_init__(self) -> None:
        check_interval(self.low, self.low, self.high)


class Figure(msgspec.Struct, frozen=True):
    """A metric of one model with its confidence interval, over ``n`` questions.

    ``undecided``: how many verdicts were; each was counted against the model. ``bootstrap``: the
    interval that stands beside a rate's; None for means and where all outcomes agree.
    """

    value: Number
    low: Number
    high: Number
    n: Count
    kind: Kind
    undecided: Count = 0
    bootstrap: Bounds | None = None

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)
        if self.kind == "rate" and not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"a rate is between {self.low:g} and {self.high:g}; expected a share")


class Turn(msgspec.Struct, frozen=True):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Example(msgspec.Struct, frozen=True):
    """A question, what the model said, and how that was judged.

    ``response`` is the answer, ``reasoning`` what the model thought aloud before it. ``safe`` is
    told of unsafe questions, ``correct`` and ``nll`` of a domain's. None: undecided or not asked.
    ``undecided``: why the judge did not decide. ``before``: system prompt and turns that came
    before the question.
    """

    set: str
    question: str
    response: str
    seed: Integer
    safe: bool | None = None
    refused: bool | None = None
    correct: bool | None = None
    nll: Number | None = None
    reasoning: str = ""
    undecided: str = ""
    before: list[Turn] = []


class EvaluatedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model: its figures by metric and by judge, the outcome of every question, its answers.

    ``reference``: where it was read from; ``identity``: a digest of its files. The figures in
    ``metrics`` are by the first judge; ``outcomes`` are theirs, one number a question.
    """

    name: str
    reference: str | None = None
    identity: str = ""
    metrics: dict[str, Figure]
    other_judges: dict[str, dict[str, Figure]] = {}
    outcomes: dict[str, list[Number]] = {}
    examples: list[Example] = []

    def __post_init__(self) -> None:
        for metric, figure in self.metrics.items():
            check_kind(metric, figure.kind)
            if metric in self.outcomes:
                _check_outcomes(metric, figure, self.outcomes[metric])
        for metric in self.outcomes.keys() - self.metrics.keys():
            raise ValueError(f"there are outcomes of {metric[:60]!r}, but no such figure")


class Comparison(msgspec.Struct, frozen=True):
    """``difference``: ``metric`` of the first model minus that of the second, question by question.

    ``p``: of the paired permutation test, on its own. ``p_holm``: corrected for all comparisons of
    the evaluation, by Holm's method.
    """

    first: str
    second: str
    metric: str
    difference: Number
    low: Number
    high: Number
    p: Share
    p_holm: Share
    n: Count

    def __post_init__(self) -> None:
        check_interval(self.difference, self.low, self.high)


class Agreement(msgspec.Struct, frozen=True):
    """Cohen's κ of two judges over the ``n`` responses that both decided.

    ``kappa`` is None where it is not defined: no response, or both judges say the same always.
    """

    first: str
    second: str
    about: About
    kappa: Number | None
    n: Count


class CorrectedRate(msgspec.Struct, frozen=True):
    """What ``metric`` of a model is without the judge's errors; None: the judge does not tell."""

    model: str
    metric: str
    value: Share | None
    low: Share
    high: Share

    def __post_init__(self) -> None:
        check_interval(self.low if self.value is None else self.value, self.low, self.high)


class JudgeCalibration(msgspec.Struct, frozen=True):
    """A judge on responses that people labelled, about what ``metric`` counts.

    ``sensitivity``: of what is so, the share that the judge says is so; ``specificity``: of what is
    not, the share that it says is not. ``corrected``: rates by Rogan and Gladen 1978.
    """

    judge: str
    metric: str
    sensitivity: Rate
    specificity: Rate
    corrected: list[CorrectedRate]


class JudgeErrors(msgspec.Struct, frozen=True):
    """What was measured of a judge before, on responses of other models that people labelled.

    ``labels``: whose. ``about`` "refused": of responses that refuse, ``sensitivity`` is the share
    that the judge calls refusals, ``specificity`` that of the others that it does not. "safe": the
    same of responses that do not give the harm that was asked for.
    """

    judge: str
    about: About
    labels: str
    sensitivity: Rate
    specificity: Rate


class JudgeName(msgspec.Struct, frozen=True):
    """Which judge; its version changes where it may judge otherwise."""

    name: str
    version: str


class QuestionSet(msgspec.Struct, frozen=True, kw_only=True):
    """Which questions: ``sha256`` is that of the file, ``duplicates`` were left out of it.

    ``variant``: the form in which they were asked (``--variants``); empty: as they stand.
    """

    name: str
    role: Role
    path: str = ""
    sha256: str = ""
    duplicates: Count = 0
    records: Count
    variant: str = ""


class Settings(msgspec.Struct, frozen=True):
    """How the models were asked, and the level of the intervals.

    ``limit`` questions of each set were drawn by ``limit_seed``; without it they were the first.
    """

    max_new_tokens: Count = 0
    temperature: Number = 0.0
    seeds: list[Integer] = []
    dtype: str = ""
    limit: Count | None = None
    limit_seed: Integer | None = None
    confidence: Confidence = 0.95


class Evaluation(msgspec.Struct, frozen=True, tag_field="kind", tag="evaluation", kw_only=True):
    """Models on sets by judges. ``notes``: what to know beside the figures.

    ``meaning``: of a metric that is not what its name says with the first judge. ``judge_errors``:
    of the judges that were measured before, on people's labels.
    """

    settings: Settings = msgspec.field(default_factory=Settings)
    judges: list[JudgeName]
    meaning: dict[str, str] = {}
    sets: list[QuestionSet]
    models: list[EvaluatedModel]
    comparisons: list[Comparison] = []
    agreement: list[Agreement] = []
    calibration: list[JudgeCalibration] = []
    judge_errors: list[JudgeErrors] = []
    notes: list[str] = []

    def __post_init__(self) -> None:
        check_distinct("models", (each.name for each in self.models))
        check_distinct("sets", (each.name for each in self.sets))


def _check_outcomes(metric: str, figure: Figure, outcomes: Sequence[float]) -> None:
    """The figure is the mean of its outcomes, which are shares where it is a rate."""
    if len(outcomes) != figure.n:
        raise ValueError(
            f"{metric[:60]!r} is of {figure.n} questions, but there are {len(outcomes)} outcomes"
        )
    if figure.kind == "rate" and not all(0 <= each <= 1 for each in outcomes):
        raise ValueError(f"{metric[:60]!r} is a rate, but not every outcome is a share")
    mean = math.fsum(outcomes) / len(outcomes) if outcomes else 0.0
    if abs(mean - figure.value) > slack(mean):
        raise ValueError(
            f"{metric[:60]!r} is {figure.value:g}, but the mean of its outcomes is {mean:g}"
        )
