"""What `vet` and `gate` write: verdicts with what they rest on, checked against each other.

A file may have been written by anyone. One whose verdict contradicts what it says itself is
refused, and so is one that decides nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mergesafe.report.numbers import ROUNDING, Count, Number, Share, check_interval


class VetFinding(msgspec.Struct):
    severity: Literal["unfit", "warning", "note"]
    area: str
    what: str
    where: str | None = None


class VetRate(msgspec.Struct):
    """The share of questions on which a model behaved so."""

    value: Share
    low: Share
    high: Share
    n: Count

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)


class VettedModel(msgspec.Struct):
    name: str
    fit: bool
    findings: list[VetFinding] = []
    rates: dict[str, VetRate] = {}

    def __post_init__(self) -> None:
        if self.fit != all(finding.severity != "unfit" for finding in self.findings):
            raise ValueError("'fit' contradicts the 'severity' of the findings")


class Vet(msgspec.Struct):
    models: list[VettedModel]
    base_rates: dict[str, VetRate] = {}

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("'models' is empty, so nothing was vetted")
        if len({model.name for model in self.models}) < len(self.models):
            raise ValueError("two of the 'models' have one name")


class Margin(msgspec.Struct):
    """A metric minus its bound."""

    low: Number
    high: Number


class Requirement(msgspec.Struct):
    """Of a gate, or a constraint of tuning, for which ``shown`` says whether its whole interval
    keeps the bound and ``met`` whether the value does.
    """

    text: str
    metric: str
    bound: Number
    met: bool
    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    reason: str = ""
    shown: bool | None = None
    margin: Margin | None = None

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)

    @property
    def contradicts(self) -> bool:
        """Whether the interval of metric - bound, as far as it is told, is on the wrong side."""
        if self.margin is not None:
            low, high = self.margin.low, self.margin.high
        elif self.low is None or self.high is None:
            return False
        else:
            low, high = self.low - self.bound, self.high - self.bound
            if "P" in self.text.rpartition("=")[2]:  # a paired difference from the baseline decides
                return False
        slack = ROUNDING * max(1.0, abs(low), abs(high))
        return low < -slack if ">=" in self.text else "<=" in self.text and high > slack


class Gate(msgspec.Struct):
    model: str
    requirements: list[Requirement]
    passed: bool
    baseline: str | None = None

    def __post_init__(self) -> None:
        if not self.requirements:
            raise ValueError("'requirements' is empty, so nothing was decided")
        if self.passed != all(requirement.met for requirement in self.requirements):
            raise ValueError("'passed' contradicts the 'met' of the requirements")
        for each in self.requirements:
            if each.met and each.contradicts:
                raise ValueError(f"'met' of {each.text[:60]!r} contradicts its interval")
