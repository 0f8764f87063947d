"""What an audit finds, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

#: ``unfit``: do not merge it. ``warning``: look before you merge. ``note``: good to know.
Severity = Literal["unfit", "warning", "note"]
Area = Literal["files", "weights", "behaviour"]
SEVERITIES: Final[tuple[Severity, ...]] = ("unfit", "warning", "note")
#: Names that a finding lists before it only counts.
SHOWN: Final = 3
_LONG: Final = 200


@dataclass(frozen=True)
class Finding:
    """``what`` is wrong, and ``where``: a file, a tensor, a layer, a set of questions."""

    severity: Severity
    area: Area
    what: str
    where: str


@dataclass(frozen=True)
class Parent:
    """One audited model. ``rates``: its behaviour, by metric, where it was run."""

    name: str
    findings: tuple[Finding, ...]
    rates: dict[str, dict[str, float | int]] = field(default_factory=dict)

    @property
    def fit(self) -> bool:
        """Whether nothing found makes it unfit."""
        return all(finding.severity != "unfit" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return {"name": self.name, "fit": self.fit, "findings": findings, "rates": self.rates}


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
