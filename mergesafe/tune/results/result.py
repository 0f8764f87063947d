"""What a tuning run found, as data for people, reports and machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mergesafe.tune.data.splits import SUBSETS, Subset
from mergesafe.tune.search.problem import Progress
from mergesafe.version import __version__

#: Decimals that losses are shown with.
SHOWN: Final = 4


@dataclass(frozen=True)
class FrontPoint:
    """One point of the front: held-out log-likelihoods, nats a token, larger being better."""

    safety: float
    skill: float
    weight: float
    coefficients: dict[str, list[list[float]]]
    dominated: bool


@dataclass(frozen=True)
class ConstraintCheck:
    """A constraint on held-out questions: its metric with its 95 % interval, and what it means.

    ``met``: the value keeps the bound. ``shown``: so does the whole confidence interval of their
    difference, which is what ``mergesafe gate`` asks for.
    """

    text: str
    metric: str
    bound: float
    value: float
    low: float
    high: float
    n: int
    met: bool
    shown: bool


@dataclass(frozen=True)
class AtBounds:
    """How many of a coefficient's ``count`` values lie on its bounds ``low`` and ``high``.

    A bound that is the merge method's own limit, such as density 1, has none.
    """

    coefficient: str
    low: float
    high: float
    at_low: int
    at_high: int
    count: int


@dataclass(frozen=True)
class Worse:
    """A term that is larger, which is worse, at the result than at the start; ``part``: on which
    data, ``train`` or ``heldout``.
    """

    term: str
    part: Subset
    start: float
    end: float


@dataclass(frozen=True)
class TuneResult:
    """Coefficients, and how they came about.

    ``coefficients``: by name, a row for each expert with a number for each group. ``terms`` and
    ``heldout``: the objective's terms at the result, on the data it was optimised on and on those
    held out; ``start_terms`` and ``start_heldout``: at the start. ``sets``: the terms that are of
    data, and no penalties. ``at_bounds``: coefficients of which some values lie on a bound.
    ``hypervolume``: the area of the front beyond ``reference``, the start's (safety, skill).
    """

    recipe: Path | None
    out: Path
    granularity: str
    models: tuple[str, ...]
    groups: tuple[str, ...]
    coefficients: dict[str, list[list[float]]]
    start: float
    objective: float
    terms: dict[str, float]
    heldout: dict[str, float]
    evaluations: int
    forward_passes: int
    seconds: float
    history: tuple[Progress, ...]
    warnings: tuple[str, ...]
    at_bounds: tuple[AtBounds, ...] = ()
    constraints: tuple[ConstraintCheck, ...] = ()
    front: tuple[FrontPoint, ...] | None = None
    hypervolume: float | None = None
    reference: tuple[float, float] | None = None
    blame: dict[str, Any] | None = None
    feasible: bool = True
    searches: tuple[str, ...] = field(default=())
    start_terms: dict[str, float] = field(default_factory=dict)
    start_heldout: dict[str, float] = field(default_factory=dict)
    sets: tuple[str, ...] = ()

    @property
    def worse(self) -> tuple[Worse, ...]:
        """What tuning paid with: every set that got worse, by more than is shown."""
        before = {"train": self.start_terms, "heldout": self.start_heldout}
        after = {"train": self.terms, "heldout": self.heldout}
        return tuple(
            Worse(name, subset, before[subset][name], after[subset][name])
            for subset in SUBSETS
            for name in self.sets
            if name in before[subset]
            and name in after[subset]
            and round(after[subset][name] - before[subset][name], SHOWN) > 0
        )

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and ``--out``: what ``mergesafe report`` reads."""
        found = asdict(self)
        found["recipe"] = None if self.recipe is None else str(self.recipe)
        found["out"] = str(self.out)
        for moment in found["history"]:
            del moment["share"]  # of whoever watches
        found["worse"] = [asdict(each) for each in self.worse]
        return {"mergesafe": __version__, "kind": "tuning", **found}
