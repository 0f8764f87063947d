"""What ``mergesafe gate`` writes, kind ``gate``.

A file may have been written by anyone. One whose verdict contradicts what it says itself is
refused, and so is one that decides nothing.
"""

from __future__ import annotations

import msgspec

from mergesafe.results.evaluation import JudgeName, QuestionSet
from mergesafe.results.numbers import Confidence, Count, Number, Share, check_interval, slack


class Margin(msgspec.Struct, frozen=True):
    """A metric minus its bound, with the interval that decided, over ``n`` questions."""

    value: Number
    low: Number
    high: Number
    n: Count

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)


class Requirement(msgspec.Struct, frozen=True):
    """``metric`` with its interval, and what it was held against.

    ``margin``: metric − bound, with the interval that decided. ``reason``: for people.
    """

    text: str
    metric: str
    bound: Number
    value: Number
    low: Number
    high: Number
    n: Count
    margin: Margin
    met: bool
    reason: str

    def __post_init__(self) -> None:
        check_interval(self.value, self.low, self.high)
        if self.above == ("<=" in self.text):
            raise ValueError(f"'text' is {self.text[:60]!r}; expected one '>=' or '<='")
        margin, difference = self.margin, self.value - self.bound
        if abs(margin.value - difference) > 3 * slack(self.value, self.bound):
            raise ValueError(
                f"'margin' of {self.text[:60]!r} is {margin.value:g}, but value - bound is "
                f"{difference:g}"
            )
        end = margin.low if self.above else -margin.high
        if self.met and end < -slack(end):
            raise ValueError(f"'met' of {self.text[:60]!r} contradicts the interval of its margin")

    @property
    def above(self) -> bool:
        """Whether the metric is to be at least the bound, rather than at most."""
        return ">=" in self.text


class ModelIdentity(msgspec.Struct, frozen=True):
    """Which model: where it was read from, and a digest of its files."""

    name: str
    reference: str | None
    identity: str


class FileDigest(msgspec.Struct, frozen=True):
    """Which file, by its path and the SHA-256 of the bytes that were read."""

    path: str
    sha256: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the decisions rest on. ``baseline`` is left out where there is none.

    ``joint_confidence``: with at least this all intervals hold together. ``evaluation``: the file
    that was read; None where the models were asked.
    """

    model: ModelIdentity
    baseline: ModelIdentity | msgspec.UnsetType = msgspec.UNSET
    judges: list[JudgeName]
    sets: list[QuestionSet]
    confidence: Confidence
    joint_confidence: Share
    evaluation: FileDigest | None


class Gate(msgspec.Struct, frozen=True, tag_field="kind", tag="gate"):
    """Every requirement with its decision, and what the decisions rest on."""

    model: str
    baseline: str | None
    requirements: list[Requirement]
    passed: bool
    evidence: Evidence

    def __post_init__(self) -> None:
        if not self.requirements:
            raise ValueError("'requirements' is empty, so nothing was decided")
        if self.passed != all(requirement.met for requirement in self.requirements):
            raise ValueError("'passed' contradicts the 'met' of the requirements")
