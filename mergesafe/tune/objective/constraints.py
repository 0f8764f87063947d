"""Constraints on the tuned model, in the grammar of requirements (:mod:`mergesafe.safety.gate`).

``METRIC >= BOUND`` or ``METRIC <= BOUND``, where a bound may be a multiple of what ``expert``, the
best of the merged models in that metric, or ``base`` reaches: ``domain.maths >= 0.95*expert``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, cast

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.recipe.nodes import Node, Reporter, shown, string
from mergesafe.results.metrics import OVER_REFUSAL, REFUSAL, SAFE
from mergesafe.safety.gate.requirement import Requirement, parse_requirement
from mergesafe.tune.section.sections import Constraint, DataSet, Role

#: Rates of answers, and the role of the set that each is measured on.
RATES: Final[dict[str, Role]] = {SAFE: "safety", REFUSAL: "safety", OVER_REFUSAL: "harmless"}
_REFERENCE: Final = re.compile(r"\b(?:expert|base)\b")


def read_constraint(node: Node, data: Sequence[DataSet], report: Reporter) -> Constraint:
    """One constraint; its metric must be measurable on one of the sets ``data``, if any."""
    text = string(node, "a constraint", report)
    metric, _, bound = text.partition("=")
    names = sorted(set(_REFERENCE.findall(bound)))
    if len(names) > 1:
        raise report.error(
            f"the constraint {shown(text)} compares with 'expert' and with 'base'; write two",
            node.line,
        )
    requirement = _requirement(metric + "=" + _REFERENCE.sub("P", bound), text, node, report)
    if data:
        _check_metric(requirement, text, data, node, report)
    _check_direction(requirement, text, node, report)
    of = cast("Literal['expert', 'base'] | None", names[0] if names else None)
    return Constraint(text, requirement, of, node.line)


def _requirement(written: str, text: str, node: Node, report: Reporter) -> Requirement:
    try:
        requirement = parse_requirement(written)
    except ArgumentError as error:
        reason = str(error).partition(": ")[2]
        note = "; for P write 'expert' or 'base'" if "P" in reason else ""
        raise report.error(f"the constraint {shown(text)}: {reason}{note}", node.line) from None
    if re.search(r"\bP\b", text):
        raise report.error(
            f"the constraint {shown(text)}: there is no P here; write 'expert' for the best of the "
            "merged models, or 'base'",
            node.line,
        )
    return requirement


def _check_metric(
    requirement: Requirement, text: str, data: Sequence[DataSet], node: Node, report: Reporter
) -> None:
    metric = requirement.metric
    domains = [each.name for each in data if each.role == "domain"]
    known = [*RATES, *(f"domain.{name}{end}" for name in domains for end in ("", ".nll"))]
    if metric not in known:
        raise report.error(
            f"the constraint {shown(text)} is on the unknown metric {shown(metric)}"
            f"{did_you_mean(metric, known)}",
            node.line,
        )
    role = RATES.get(metric)
    if role is not None and all(each.role != role for each in data):
        raise report.error(
            f"the constraint {shown(text)} needs a data set with 'role: {role}' to measure "
            f"{metric} on; add one under 'data'",
            node.line,
        )


def _check_direction(requirement: Requirement, text: str, node: Node, report: Reporter) -> None:
    """More is better, but for losses and over-refusal; a bound on the good side is a mistake."""
    above = requirement.is_rate and requirement.metric != OVER_REFUSAL
    if requirement.above != above:
        raise report.error(
            f"the constraint {shown(text)} keeps {requirement.metric} from getting better; write "
            f"{requirement.metric} {'>=' if above else '<='} BOUND",
            node.line,
        )
