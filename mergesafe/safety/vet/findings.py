"""What an audit finds, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mergesafe.results.numbers import Rate
from mergesafe.results.vet import Finding, Severity, VettedModel

SEVERITIES: Final[tuple[Severity, ...]] = ("unfit", "warning", "note")
#: Names that a finding lists before it only counts.
SHOWN: Final = 3
_LONG: Final = 200


@dataclass(frozen=True)
class Parent:
    """One audited model. ``rates``: its behaviour, by metric, where it was run. ``moved``: the
    largest ‖τ‖/‖base‖ of its matrices.
    """

    name: str
    findings: tuple[Finding, ...]
    rates: dict[str, Rate] = field(default_factory=dict)
    moved: float = 0.0

    @property
    def fit(self) -> bool:
        """Whether nothing found makes it unfit."""
        return all(finding.severity != "unfit" for finding in self.findings)

    def document(self) -> VettedModel:
        """As it is written."""
        return VettedModel(self.name, self.fit, list(self.findings), dict(self.rates))


def by_severity(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The gravest first, otherwise in their order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def listing(names: Sequence[str], total: int | None = None) -> str:
    """``"a, b, c and 4 more"``; what is too long for a line is cut.

    ``total``: how many there are, where ``names`` are but the first.
    """
    more = (len(names) if total is None else total) - SHOWN
    return ", ".join(map(_cut, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def _cut(name: str) -> str:
    return name if len(name) <= _LONG else f"{name[: _LONG // 2]}...{name[-_LONG // 2 :]}"


def amount(count: int, one: str, many: str) -> str:
    """``"1 tensor holds"``, ``"2 tensors hold"``."""
    return f"{count:,} {one if count == 1 else many}"
