"""What a tuning run found, as data for people, reports and machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mergesafe.results import tuning as schema
from mergesafe.results.tuning import AtBounds, ConstraintCheck, FrontPoint, Worse
from mergesafe.results.writing import as_dict
from mergesafe.summary import Summarised, Summary, counted
from mergesafe.tune.data.splits import SUBSETS
from mergesafe.tune.results.blame import Blame
from mergesafe.tune.search.problem import Progress

#: Decimals that losses are shown with.
SHOWN: Final = 4


@dataclass(frozen=True, repr=False)
class TuneResult(Summarised):
    """Coefficients, and how they came about.

    ``coefficients``: by name, a row for each expert with a number for each group. ``terms`` and
    ``heldout``: the objective's terms at the result, on the data it was optimised on and on those
    held out; ``start_terms`` and ``start_heldout``: at the start. ``sets``: the terms that are of
    data, and no penalties. Without a search there is neither objective nor data: ``start`` and
    ``objective`` are None. ``at_bounds``: coefficients of which some values lie on a bound.
    ``hypervolume``: the area of the front beyond ``reference``, the start's (safety, skill).
    """

    recipe: Path | None
    out: Path
    granularity: str
    models: tuple[str, ...]
    groups: tuple[str, ...]
    coefficients: dict[str, list[list[float]]]
    start: float | None
    objective: float | None
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
    blame: Blame | None = None
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

    def document(self) -> schema.Tuning:
        """The document of kind ``tuning``."""
        return schema.Tuning(
            recipe=None if self.recipe is None else str(self.recipe),
            out=str(self.out),
            granularity=self.granularity,
            models=list(self.models),
            groups=list(self.groups),
            coefficients=self.coefficients,
            start=self.start,
            objective=self.objective,
            terms=self.terms,
            heldout=self.heldout,
            evaluations=self.evaluations,
            forward_passes=self.forward_passes,
            seconds=self.seconds,
            history=[_step(each) for each in self.history],
            warnings=list(self.warnings),
            at_bounds=list(self.at_bounds),
            constraints=list(self.constraints),
            front=None if self.front is None else list(self.front),
            hypervolume=self.hypervolume,
            reference=self.reference,
            blame=None if self.blame is None else self.blame.document(),
            feasible=self.feasible,
            searches=list(self.searches),
            start_terms=self.start_terms,
            start_heldout=self.start_heldout,
            sets=list(self.sets),
            worse=list(self.worse),
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as what ``json.dumps`` takes."""
        return as_dict(self.document())

    def summary(self) -> Summary:
        changed = "" if self.start is None or self.objective is None else (
            f", objective {self.start:.4f} to {self.objective:.4f}"
        )  # fmt: skip
        return Summary(
            f"{self.out}: {counted(self.evaluations, 'evaluation')} in {self.seconds:.0f} s"
            f"{changed}{'' if self.feasible else '; a constraint is not met'}",
            ("term", "start", "tuned", "start, held out", "tuned, held out"),
            [
                (name, *(
                    f"{found[name]:.4f}" if name in found else ""
                    for found in (self.start_terms, self.terms, self.start_heldout, self.heldout)
                ))
                for name in dict.fromkeys([*self.terms, *self.heldout])
            ],
            self.warnings,
        )  # fmt: skip


def _step(line: Progress) -> schema.Step:
    """Without its share of the budget, which is of whoever watches."""
    return schema.Step(
        line.search, line.step, line.objective, line.terms, line.evaluations, line.seconds,
        line.part,
    )  # fmt: skip
