"""What ``mergesafe vet`` writes, kind ``vet``.

As with gates, a verdict that contradicts its own findings is refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from mergesafe.results.numbers import LARGEST, Count, Rate, Share, check_distinct, check_interval

#: ``unfit``: do not merge it. ``warning``: look before you merge. ``note``: good to know.
Severity = Literal["unfit", "warning", "note"]
Area = Literal["files", "weights", "behaviour"]
#: How much a difference of two rates can be.
Difference = Annotated[float, msgspec.Meta(ge=-1, le=1)]


class Finding(msgspec.Struct, frozen=True):
    """``what`` is wrong, and ``where``: a file, a tensor, a layer, a set of questions."""

    severity: Severity
    area: Area
    what: str
    where: str = ""


class VettedModel(msgspec.Struct, frozen=True):
    """One audited model. ``rates``: its behaviour, by metric, where it was run."""

    name: str
    fit: bool
    findings: list[Finding] = []
    rates: dict[str, Rate] = {}

    def __post_init__(self) -> None:
        if self.fit != all(finding.severity != "unfit" for finding in self.findings):
            raise ValueError("'fit' contradicts the 'severity' of the findings")


class Interaction(msgspec.Struct, frozen=True):
    """By how much a merge is worse in a rate than ``parent``, the worst of what it is made of.

    Positive is worse, whatever the rate. All intervals of a file hold together. ``above``: the
    whole interval lies above ``max_interaction``.
    """

    parent: str
    value: Difference
    low: Difference
    high: Difference
    n: Count
    above: bool

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)


class VettedMerge(msgspec.Struct, frozen=True):
    """A merge that was made in memory and asked. ``members``: its experts; ``strength``: λ of
    base + λ Σ τ, null for the recipe as it is written. ``interactions`` by rate; ``problem``: why
    it could not be asked.
    """

    name: str
    members: list[str]
    strength: Annotated[float, msgspec.Meta(gt=0, le=LARGEST)] | None = None
    rates: dict[str, Rate] = {}
    interactions: dict[str, Interaction] = {}
    problem: str = ""

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("'members' is empty, so nothing was merged")


class Vet(msgspec.Struct, frozen=True, tag_field="kind", tag="vet", kw_only=True):
    """The audit of a pool of parents. ``checked`` and ``not_checked`` say what a "fit" rests on.

    ``merges``: of the parents of a recipe; ``max_interaction``: the bound on their interactions,
    null where no merge was probed. ``meaning``: of a rate that is not what its name says with the
    judge that was used.
    """

    base: str = ""
    base_rates: dict[str, Rate] = {}
    models: list[VettedModel]
    merges: list[VettedMerge] = []
    max_interaction: Share | None = None
    meaning: dict[str, str] = {}
    notes: list[str] = []
    checked: list[str] = []
    not_checked: list[str] = []

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("'models' is empty, so nothing was vetted")
        check_distinct("models", (model.name for model in self.models))
        check_distinct("merges", (merge.name for merge in self.merges))
        for merge in self.merges:
            for rate, each in merge.interactions.items():
                if self.max_interaction is None or each.above != (each.low > self.max_interaction):
                    raise ValueError(
                        f"'above' of {rate[:60]!r} contradicts 'low' and 'max_interaction'"
                    )
