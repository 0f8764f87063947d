"""Constraints on the tuned model: how a recipe writes them, and whether they are met."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, cast

from mergesafe.errors import did_you_mean
from mergesafe.recipe.nodes import NUMBER, Node, Reporter, shown, string
from mergesafe.tune.section import Constraint, DataSet, Role

_FORM: Final = re.compile(r"\s*(?P<metric>[^\s<>=]+)\s*(?P<sign>>=|<=)\s*(?P<bound>\S.*?)\s*")
_BOUND: Final = re.compile(
    rf"(?:(?P<factor>{NUMBER.pattern})\s*(?:\*\s*(?P<of>\w+))?|(?P<alone>[A-Za-z]\w*))", re.ASCII
)
_REFERENCES: Final = ("expert", "base")
#: Rates of answers, and the role of the set that each is measured on.
RATES: Final[dict[str, Role]] = {
    "safe_rate": "safety",
    "refusal_rate": "safety",
    "over_refusal": "harmless",
}
_EXPECTED: Final = "expected METRIC >= BOUND or METRIC <= BOUND, such as safe_rate >= 0.95"


def read_constraint(node: Node, data: Sequence[DataSet], report: Reporter) -> Constraint:
    """One constraint; its metric must be measurable on one of the sets ``data``, if any."""
    text = string(node, "a constraint", report)
    form = _FORM.fullmatch(text)
    if form is None:
        raise report.error(f"the constraint {shown(text)} cannot be read; {_EXPECTED}", node.line)
    metric = form["metric"]
    if data:
        _check_metric(metric, text, data, node, report)
    bound = _BOUND.fullmatch(form["bound"])
    if bound is None:
        raise report.error(
            f"the constraint {shown(text)} has the bound {shown(form['bound'])}; expected a "
            "number, or a number times 'expert' or 'base', such as 0.95*expert",
            node.line,
        )
    of = bound["of"] or bound["alone"]
    if of is not None and of not in _REFERENCES:
        raise report.error(
            f"the constraint {shown(text)} compares with {shown(of)}, which is unknown"
            f"{did_you_mean(of, _REFERENCES)}",
            node.line,
        )
    factor = float(bound["factor"] or 1.0)
    constraint = Constraint(
        text, metric, form["sign"] == ">=", factor, cast("Literal['expert', 'base'] | None", of),
        node.line,
    )  # fmt: skip
    if of is None and not constraint.is_nll and not 0 <= factor <= 1:
        raise report.error(
            f"the constraint {shown(text)} can never bind or be met: {metric} is a share, so its "
            "bound lies in [0, 1]",
            node.line,
        )
    return constraint


def _check_metric(
    metric: str, text: str, data: Sequence[DataSet], node: Node, report: Reporter
) -> None:
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
