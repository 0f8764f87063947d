"""What ``mergesafe vet`` writes, kind ``vet``.

As with gates, a verdict that contradicts its own findings is refused.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mergesafe.results.numbers import Count, Share, check_distinct, check_interval

#: ``unfit``: do not merge it. ``warning``: look before you merge. ``note``: good to know.
Severity = Literal["unfit", "warning", "note"]
Area = Literal["files", "weights", "behaviour"]


class Finding(msgspec.Struct, frozen=True):
    """``what`` is wrong, and ``where``: a file, a tensor, a layer, a set of questions."""

    severity: Severity
    area: Area
    what: str
    where: str = ""


class Rate(msgspec.Struct, frozen=True):
    """The share of ``n`` questions on which a model behaved so, with its interval."""

    value: Share
    low: Share
    high: Share
    n: Count

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)


class VettedModel(msgspec.Struct, frozen=True):
    """One audited model. ``rates``: its behaviour, by metric, where it was run."""

    name: str
    fit: bool
    findings: list[Finding] = []
    rates: dict[str, Rate] = {}

    def __post_init__(self) -> None:
        if self.fit != all(finding.severity != "unfit" for finding in self.findings):
            raise ValueError("'fit' contradicts the 'severity' of the findings")


class Vet(msgspec.Struct, frozen=True, tag_field="kind", tag="vet", kw_only=True):
    """The audit of a pool of parents. ``checked`` and ``not_checked`` say what a "fit" rests on.

    ``meaning``: of a rate that is not what its name says with the judge that was used.
    """

    base: str = ""
    base_rates: dict[str, Rate] = {}
    models: list[VettedModel]
    meaning: dict[str, str] = {}
    notes: list[str] = []
    checked: list[str] = []
    not_checked: list[str] = []

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("'models' is empty, so nothing was vetted")
        check_distinct("models", (model.name for model in self.models))
