"""Typed values out of one mapping of a recipe, with every mistake recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from mergesafe.errors import RecipeError, did_you_mean
from mergesafe.recipe.nodes import (
    NOT_FINITE,
    OCTAL,
    ListNode,
    MapNode,
    Node,
    Reporter,
    ScalarNode,
    as_meant,
    describe,
    shown,
    string,
)

Value = TypeVar("Value")


class Fields:
    """Reads the keys of ``node``; ``what`` is what messages call it.

    A value that cannot be read is recorded as a mistake and its default returned, so that the
    caller reads on. Unknown keys are recorded at once.
    """

    def __init__(self, node: MapNode, what: str, known: Sequence[str], report: Reporter) -> None:
        self.what = what
        self.report = report
        for key, line, _ in node:
            if key not in known:
                hint = did_you_mean(key, known)
                report.record(f"unknown key {shown(key)} in {what}{hint}", line)
        self.node = as_meant(node, known)

    def line(self, key: str) -> int | None:
        """The line of ``key``, or of the mapping where it is absent."""
        return self.node.entries[key][0] if key in self.node.entries else self.node.line

    def has(self, key: str) -> bool:
        return self.node.get(key) is not None

    def read(self, key: str, reader: Callable[[Node], Value], default: Value) -> Value:
        """``reader`` of the value, ``default`` where there is none or it is wrong."""
        node = self.node.get(key)
        if node is None:
            return default
        found = self.report.attempt(reader, node)
        return default if found is None else found

    def number(
        self, key: str, default: float, low: float = -math.inf, high: float = math.inf
    ) -> float:
        """A finite number in [low, high]."""
        return self.read(
            key, lambda node: number(node, self._name(key), self.report, low, high), default
        )

    def whole(self, key: str, default: int, low: int = 1) -> int:
        """A whole number, at least ``low``."""
        return self.read(key, lambda node: whole(node, self._name(key), self.report, low), default)

    def text(self, key: str) -> str | None:
        return self.read(key, lambda node: string(node, self._name(key), self.report), None)

    def choice(self, key: str, known: Sequence[str], default: str) -> str:
        """One of ``known``."""
        return self.read(
            key, lambda node: choice(node, self._name(key), known, self.report), default
        )

    def missing(self, key: str, expected: str) -> None:
        """Record that ``key`` is required."""
        self.report.record(f"{self.what} has no '{key}'; {expected}", self.node.line)

    def _name(self, key: str) -> str:
        return f"'{key}' of {self.what}"


def number(
    node: Node,
    what: str,
    report: Reporter,
    low: float = -math.inf,
    high: float = math.inf,
) -> float:
    """A finite number in [low, high]; quoted ones count, as YAML 1.1 reads ``1e-3`` as text."""
    if not isinstance(node, ScalarNode) or NOT_FINITE.fullmatch(node.text):
        raise _expected("a finite number", node, what, report)
    if not node.is_number:
        raise _expected("a number", node, what, report)
    if OCTAL.fullmatch(node.text):
        raise report.error(
            f"{what} is {node.text}; YAML versions disagree about leading zeros, so leave them out",
            node.line,
        )
    value = float(node.text)
    if not math.isfinite(value) or not low <= value <= high:
        raise report.error(f"{what} is {node.text}, outside {_interval(low, high)}", node.line)
    return value


def whole(node: Node, what: str, report: Reporter, low: int = 1) -> int:
    """A whole number, at least ``low``."""
    value = number(node, what, report, low)
    if not value.is_integer():
        raise _expected("a whole number", node, what, report)
    return int(value)


def choice(node: Node, what: str, known: Sequence[str], report: Reporter) -> str:
    """One of ``known``."""
    text = string(node, what, report)
    if text not in known:
        raise report.error(
            f"{what} is {shown(text)}, which is unknown{did_you_mean(text, known)}", node.line
        )
    return text


def items(node: Node, what: str, report: Reporter) -> tuple[Node, ...]:
    """The elements of a list that is not empty; anything else counts as a list of one."""
    if not isinstance(node, ListNode):
        return (node,)
    if not node.items:
        raise report.error(f"{what} is an empty list", node.line)
    return node.items


def _expected(expected: str, node: Node, what: str, report: Reporter) -> RecipeError:
    return report.error(f"{what} must be {expected}, got {describe(node)}", node.line)


def _interval(low: float, high: float) -> str:
    if math.isinf(high):
        return "the allowed range" if math.isinf(low) else f"the allowed range: at least {low:g}"
    if math.isinf(low):
        return f"the allowed range: at most {high:g}"
    return f"the allowed range [{low:g}, {high:g}]"
