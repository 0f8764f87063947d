"""Readers of the options of searches."""

from __future__ import annotations

from collections.abc import Callable

from mergesafe.recipe.fields import integer, number, one_or_more
from mergesafe.recipe.nodes import Node, Reporter


def positive(node: Node, what: str, report: Reporter) -> float:
    """A number larger than 0."""
    value = number(node, what, report, 0.0)
    if value == 0.0:
        raise report.error(f"{what} must be larger than 0", node.line)
    return value


def values(node: Node, what: str, report: Reporter) -> tuple[float, ...]:
    """One number or a list of them."""
    return tuple(number(each, what, report) for each in one_or_more(node, what, report))


def at_least(low: int) -> Callable[[Node, str, Reporter], float]:
    """A reader of whole numbers from ``low``."""
    return lambda node, what, report: integer(node, what, report, low)
