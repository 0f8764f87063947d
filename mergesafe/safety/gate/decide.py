"""Is a requirement met? Decided on the bound of the confidence interval, not on the point.

``metric >= bound`` holds when the *lower* end of the interval of metric − bound is at least 0, and
``metric <= bound`` when its *upper* end is at most 0. A model that does well on few questions has
shown little, and does not pass. Against a baseline the two models' outcomes are paired by question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mergesafe.errors import DataError
from mergesafe.results import gate as schema
from mergesafe.safety.evaluation.compare import difference
from mergesafe.safety.evaluation.result import Figure
from mergesafe.safety.gate.requirement import Requirement
from mergesafe.safety.statistics import Estimate, wilson

#: Fewer values have no bootstrap interval worth a decision.
LEAST: Final = 10
#: Rounding of the difference of two shares; far below 1/n of any set.
_ROUNDING: Final = 1e-9
_MANY: Final = 1_000_000


@dataclass(frozen=True)
class Decision:
    """A requirement on one model.

    ``figure``: the metric with its own interval. ``bound``: what it was held against, as a point.
    ``margin``: metric − bound with the interval that decided. ``reason``: for people.
    """

    requirement: Requirement
    figure: Estimate
    bound: float
    margin: Estimate
    met: bool
    reason: str

    def document(self) -> schema.Requirement:
        """As it is written, rounded."""
        found, margin = self.figure.rounded(), self.margin.rounded()
        return schema.Requirement(
            self.requirement.text, self.requirement.metric, round(self.bound, 6),
            found.value, found.low, found.high, found.n,
            schema.Margin(margin.value, margin.low, margin.high, margin.n), self.met, self.reason,
        )  # fmt: skip


def decide(
    requirement: Requirement, figure: Figure, baseline: Figure | None, confidence: float
) -> Decision:
    """The decision on ``figure``, against ``baseline`` where the requirement names P.

    Raises:
        DataError: the two were not measured on the same questions.
    """
    bound, found = requirement.offset, figure.estimate
    margin = _shifted(found, bound)
    if requirement.factor:
        if baseline is None:
            raise DataError(f"requirement {requirement.text!r}: the baseline has no such figure")
        if not figure.outcomes or len(figure.outcomes) != len(baseline.outcomes):
            raise DataError(
                f"requirement {requirement.text!r}: model and baseline were not measured on the "
                "same questions one by one, so they cannot be compared; evaluate both in one run"
            )
        paired = difference(figure, baseline, requirement.factor, confidence)
        bound += requirement.factor * baseline.estimate.value
        margin = _shifted(paired, requirement.offset)
    enough = figure.kind == "rate" or found.n >= LEAST
    holds = margin.low >= -_ROUNDING if requirement.above else margin.high <= _ROUNDING
    decision = Decision(requirement, found, bound, margin, enough and holds, "")
    return Decision(**{**vars(decision), "reason": _reason(decision, enough, confidence)})


def _shifted(estimate: Estimate, by: float) -> Estimate:
    return Estimate(estimate.value - by, estimate.low - by, estimate.high - by, estimate.n)


def _reason(decision: Decision, enough: bool, confidence: float) -> str:
    requirement, figure, margin = decision.requirement, decision.figure, decision.margin
    side, end = ("least", margin.low) if requirement.above else ("most", margin.high)
    about = (
        f"{requirement.metric} is {figure.value:.4g}, with {100 * confidence:g} % confidence "
        f"between {figure.low:.4g} and {figure.high:.4g} ({figure.n} questions); "
        f"required is at {side} {decision.bound:.4g}"
    )
    if requirement.factor:
        about += f", and the paired difference from that is at {side} {end:+.4g}"
    if decision.met:
        return about
    if not enough:
        return f"{about}; fewer than {LEAST} questions decide nothing"
    point_holds = margin.value >= 0 if requirement.above else margin.value <= 0
    if not point_holds:
        return about
    more = None if requirement.factor or not requirement.is_rate else _needed(decision, confidence)
    hint = "" if more is None else f": with this share {more:,} questions would"
    return f"{about}. The value alone would pass, but {figure.n} questions do not show it{hint}"


def _needed(decision: Decision, confidence: float) -> int | None:
    """The least number of questions with which the same share would pass."""

    def passes(n: int) -> bool:
        low, high = wilson(decision.figure.value, n, confidence)
        return low >= decision.bound if decision.requirement.above else high <= decision.bound

    if not passes(_MANY):
        return None
    below, enough = 0, _MANY
    while enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if passes(middle) else (middle, enough)
    return enough
