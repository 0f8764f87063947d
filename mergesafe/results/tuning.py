"""What ``mergesafe tune`` writes, kind ``tuning``."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from mergesafe.results.numbers import Count, Integer, Number, check_interval
from mergesafe.results.tables import check_table

Subset: TypeAlias = Literal["train", "heldout"]


class Step(msgspec.Struct, frozen=True):
    """One line of the history: the search, its step, and the objective there.

    ``part``: which of the searches it is, where constraints or a front make several necessary.
    """

    search: str
    step: Integer
    objective: Number
    terms: dict[str, Number]
    evaluations: Count
    seconds: Number
    part: str


class FrontPoint(msgspec.Struct, frozen=True):
    """One point of the front: held-out log-likelihoods, nats a token, larger being better.

    ``weight``: of safety. ``dominated``: another point is better in both.
    """

    safety: Number
    skill: Number
    weight: Number
    coefficients: dict[str, list[list[Number]]]
    dominated: bool


class ConstraintCheck(msgspec.Struct, frozen=True):
    """A constraint on held-out questions: its metric with its 95 % interval, and what it means.

    ``met``: the value keeps the bound. ``shown``: so does the whole confidence interval of their
    difference, which is what ``mergesafe gate`` asks for.
    """

    text: str
    metric: str
    bound: Number
    value: Number
    low: Number
    high: Number
    n: Count
    met: bool
    shown: bool

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)


class AtBounds(msgspec.Struct, frozen=True):
    """How many of a coefficient's ``count`` values lie on its bounds ``low`` and ``high``.

    A bound that is the merge method's own limit, such as density 1, has none.
    """

    coefficient: str
    low: Number
    high: Number
    at_low: Count
    at_high: Count
    count: Count


class Worse(msgspec.Struct, frozen=True):
    """A term that is larger, which is worse, at the result than at the start; ``part``: on which
    data, ``train`` or ``heldout``.
    """

    term: str
    part: Subset
    start: Number
    end: Number


class Blame(msgspec.Struct, frozen=True):
    """How much each parent's group of tensors costs safety: tables of models by groups, in nats a
    token; ``leave_one_out`` is None where it was not asked for.
    """

    models: list[str]
    groups: list[str]
    gradient: list[list[Number]]
    leave_one_out: list[list[Number]] | None

    def __post_init__(self) -> None:
        check_table(self.gradient, self.models, self.groups, "gradient")
        check_table(self.leave_one_out, self.models, self.groups, "leave_one_out")


class Tuning(msgspec.Struct, frozen=True, tag_field="kind", tag="tuning"):
    """Coefficients, and how they came about.

    ``coefficients``: a row for each model, or one row for a coefficient that they share.
    ``objective``: what was minimised, at the result; ``start``: before; None where there was no
    search. ``terms`` and ``heldout``:
    its terms at the result, on the data that it was optimised on and on data kept apart;
    ``start_terms`` and ``start_heldout``: before. ``hypervolume``: the area of the front beyond
    ``reference``, the start's (safety, skill).
    """

    recipe: str | None
    out: str
    granularity: str
    models: list[str]
    groups: list[str]
    coefficients: dict[str, list[list[Number]]]
    start: Number | None
    objective: Number | None
    terms: dict[str, Number]
    heldout: dict[str, Number]
    evaluations: Count
    forward_passes: Count
    seconds: Number
    history: list[Step]
    warnings: list[str]
    at_bounds: list[AtBounds]
    constraints: list[ConstraintCheck]
    front: list[FrontPoint] | None
    hypervolume: Number | None
    reference: tuple[Number, Number] | None
    blame: Blame | None
    feasible: bool
    searches: list[str]
    start_terms: dict[str, Number]
    start_heldout: dict[str, Number]
    sets: list[str]
    worse: list[Worse]

    def __post_init__(self) -> None:
        for name, rows in self.coefficients.items():
            models = self.models if len(rows) != 1 else ["all"]
            check_table(rows, models, self.groups, f"coefficients.{name}")
