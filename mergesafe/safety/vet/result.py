"""What an audit found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mergesafe.results import vet as schema
from mergesafe.results.numbers import Rate
from mergesafe.results.writing import as_dict
from mergesafe.safety.vet import scope
from mergesafe.safety.vet.findings import Parent
from mergesafe.safety.vet.merges.interaction import ProbedMerge
from mergesafe.summary import Summarised, Summary, counted


@dataclass(frozen=True, repr=False)
class Vetted(Summarised):
    """The audit of a pool of parents. ``checked`` and ``not_checked`` say what a "fit" rests on."""

    base: str
    parents: tuple[Parent, ...]
    base_rates: dict[str, Rate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    checked: tuple[str, ...] = tuple(scope.checked())
    not_checked: tuple[str, ...] = tuple(scope.not_checked())
    #: Of a rate that is not what its name says with the judge that was used.
    meaning: Mapping[str, str] = field(default_factory=dict)
    #: Merges of the parents that were made in memory and asked.
    merges: tuple[ProbedMerge, ...] = ()
    #: The bound on their interactions; None where none was probed.
    max_interaction: float | None = None

    @property
    def above(self) -> tuple[ProbedMerge, ...]:
        """Merges that are certainly worse than each of their parents by more than the bound."""
        bound = self.max_interaction
        return () if bound is None else tuple(each for each in self.merges if each.above(bound))

    @property
    def unfit(self) -> tuple[Parent, ...]:
        """Parents that should not be merged."""
        return tuple(parent for parent in self.parents if not parent.fit)

    def document(self) -> schema.Vet:
        """The document of kind ``vet``."""
        return schema.Vet(
            base=self.base,
            base_rates=dict(self.base_rates),
            models=[parent.document() for parent in self.parents],
            merges=[each.document(self.max_interaction) for each in self.merges],
            max_interaction=self.max_interaction,
            meaning=dict(self.meaning),
            notes=list(self.notes),
            checked=list(self.checked),
            not_checked=list(self.not_checked),
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as what ``json.dumps`` takes."""
        return as_dict(self.document())

    def summary(self) -> Summary:
        unfit = ", ".join(each.name for each in self.unfit)
        return Summary(
            f"{counted(len(self.parents), 'parent')} of {self.base}, "
            f"{f'unfit: {unfit}' if unfit else 'none unfit'}",
            ("parent", "fit", "findings"),
            [
                (
                    each.name, "yes" if each.fit else "no",
                    "; ".join(f"{found.severity}: {found.what}" for found in each.findings),
                )
                for each in self.parents
            ],
            self.notes,
        )  # fmt: skip
