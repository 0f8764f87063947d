"""Requirements as text: ``METRIC >= BOUND`` or ``METRIC <= BOUND``.

METRIC is one that ``mergesafe evaluate`` prints. BOUND is a number (``0.95`` or ``95%``), or a
multiple of the baseline's value of the same metric, plus or minus a number: ``P``, ``0.9*P``,
``P-0.02``, ``1.1*P+0.05``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NoReturn

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.results.metrics import DOMAIN, FAMILIES, LM_EVAL, is_rate

_FORM: Final = re.compile(r"\s*(?P<metric>[^\s<>=!]+)\s*(?P<relation>[<>=!]+)\s*(?P<bound>.+?)\s*")
#: No metric is so large; what is computed with it stays finite.
_LARGEST: Final = 1e12
_NUMBER: Final = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*%?"
_TERM: Final = re.compile(
    rf"\s*(?P<sign>[-+]?)\s*(?:(?P<before>{_NUMBER})\s*\*\s*P|P\s*\*\s*(?P<after>{_NUMBER})"
    rf"|(?P<baseline>P)|(?P<number>{_NUMBER}))\s*"
)


@dataclass(frozen=True)
class Requirement:
    """``metric`` ≥ (``above``) or ≤ ``factor`` · baseline + ``offset``."""

    text: str
    metric: str
    above: bool
    factor: float
    offset: float

    @property
    def is_rate(self) -> bool:
        """Whether the metric is certainly a rate; those of lm-eval need not be."""
        return is_rate(self.metric)


def parse_requirement(text: str) -> Requirement:
    """The requirement that ``text`` writes.

    Raises:
        ArgumentError: it is none; says what was expected.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        _fail(text, "expected METRIC>=BOUND or METRIC<=BOUND, such as 'safe_rate>=0.95'")
    metric, relation = found["metric"], found["relation"]
    if relation in ("=>", "=<"):
        _fail(text, f"{relation!r} is no relation; did you mean {relation[::-1]!r}?")
    if relation not in (">=", "<="):
        _fail(text, f"{relation!r} cannot be decided on a confidence bound; write '>=' or '<='")
    _check_family(text, metric)
    factor, offset = _bound(text, found["bound"])
    requirement = Requirement(text.strip(), metric, relation == ">=", factor, offset)
    if requirement.is_rate and not factor and not 0 <= offset <= 1:
        _fail(text, f"{metric} is a rate between 0 and 1; 95 % is written 0.95 or 95%")
    return requirement


def check_metric(requirement: Requirement, known: Collection[str]) -> None:
    """Refuse a requirement of a metric that is not among ``known``, those of the evaluation.

    Raises:
        ArgumentError: nothing has that name; names the nearest.
    """
    if requirement.metric not in known:
        hint = did_you_mean(requirement.metric, known)
        _fail(requirement.text, f"the evaluation has no {requirement.metric!r}{hint}")


def _check_family(text: str, metric: str) -> None:
    family, dot, rest = metric.partition(".")
    if family not in FAMILIES:
        _fail(text, f"unknown metric {metric!r}{did_you_mean(family, FAMILIES)}")
    if (family in (DOMAIN, LM_EVAL) or dot) and not rest:
        _fail(text, f"{metric!r} names no set; expected {family}.NAME")


def _bound(text: str, bound: str) -> tuple[float, float]:
    """Factor of the baseline, and what is added to it."""
    factor, offset, at, terms = 0.0, 0.0, 0, 0
    while at < len(bound):
        term = _TERM.match(bound, at)
        if term is None or (terms and not term["sign"]):
            _fail(
                text,
                f"cannot read the bound {bound!r} at {bound[at : at + 20]!r}; expected a number "
                "such as 0.95 or 95%, or one of the baseline P such as 0.9*P or P-0.02",
            )
        sign = -1.0 if term["sign"] == "-" else 1.0
        if term["number"] is not None:
            offset += sign * _number(term["number"])
        else:
            share = term["before"] or term["after"]
            factor += sign * (1.0 if share is None else _number(share))
        at, terms = term.end(), terms + 1
    if not max(factor, abs(offset)) <= _LARGEST:
        _fail(text, f"the bound {bound!r} is beyond any figure; expected at most {_LARGEST:g}")
    if factor < 0:
        _fail(text, f"the bound {bound!r} falls as the baseline rises")
    return factor, offset


def _number(text: str) -> float:
    # float() takes other characters for spaces than a pattern does.
    return float(text[:-1].strip()) / 100 if text.endswith("%") else float(text.strip())


def _fail(text: str, problem: str) -> NoReturn:
    raise ArgumentError(f"requirement {text!r}: {problem}")
