"""The keys of one mapping, read strictly: what is misspelt, missing or of the wrong type is told
with its line, and reading goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from mergesafe.errors import did_you_mean, nearest
from mergesafe.recipe.nodes import (
    ListNode,
    MapNode,
    Node,
    Reporter,
    ScalarNode,
    describe,
    mapping,
    shown,
    string,
)

Result = TypeVar("Result")


def as_meant(node: MapNode, known: Sequence[str], others: Sequence[str] = ()) -> MapNode:
    """``node`` with misspelt keys read as the known ones that they resemble and that are absent.

    They are reported as unknown; this finds what is wrong under them, and nothing is called
    missing that is there. ``others``: keys that are not misspelt, though not among ``known``.
    """
    entries: dict[str, tuple[int | None, Node]] = {}
    for key, line, value in node:
        meant = None if key in known or key in others else nearest(key, known)
        if meant is None or meant in node.entries:
            meant = key
        entries[meant] = line, value
    return MapNode(entries, node.line, node.size)


class Fields:
    """Typed access to a mapping that may have the keys ``known`` and no others.

    ``what`` names the mapping in messages. A method returns its default, and None without one,
    where the key is absent or its value was reported as wrong.
    """

    def __init__(self, node: Node, known: Sequence[str], what: str, report: Reporter) -> None:
        written = mapping(node, what, report)
        for key, line, _ in written:
            if key not in known:
                report.record(
                    f"{what} has the unknown key {shown(key)}{did_you_mean(key, known)}", line
                )
        self.node = as_meant(written, known)
        self.what = what
        self.report = report

    def line(self, key: str) -> int | None:
        """The line of ``key``, or of the mapping where it is absent."""
        return self.node.entries[key][0] if key in self.node.entries else self.node.line

    def has(self, key: str) -> bool:
        """Whether ``key`` is there with a value."""
        return self.node.get(key) is not None

    def missing(self, key: str, expected: str) -> None:
        """Report that ``key`` is absent."""
        self.report.record(f"{self.what} has no '{key}'; expected {expected}", self.line(key))

    def read(self, key: str, reader: Callable[[Node, str], Result]) -> Result | None:
        """``reader(node, what)`` of the value of ``key``; None where it is absent or wrong."""
        node = self.node.get(key)
        if node is None:
            return None
        return self.report.attempt(reader, node, f"'{key}' of {self.what}")

    def text(self, key: str) -> str | None:
        """Text of one line."""
        return self.read(key, lambda node, what: string(node, what, self.report))

    def choice(self, key: str, options: Sequence[str], default: str) -> str:
        """One of ``options``."""

        def one(node: Node, what: str) -> str:
            text = string(node, what, self.report)
            if text in options:
                return text
            raise self.report.error(
                f"{what} is {shown(text)}, expected one of {', '.join(options)}"
                f"{did_you_mean(text, options) if nearest(text, options) else ''}",
                node.line,
            )

        return self.read(key, one) or default

    def integer(self, key: str, default: int, low: int = 0, high: int = 1 << 53) -> int:
        """A whole number from ``low`` to ``high``."""

        def whole(node: Node, what: str) -> int:
            value = self._number(node, what)
            if value != int(value) or not low <= value <= high:
                raise self.report.error(
                    f"{what} must be a whole number of at least {low}, got {describe(node)}",
                    node.line,
                )
            return int(value)

        found = self.read(key, whole)
        return default if found is None else found

    def number(self, key: str, default: float, low: float, high: float = math.inf) -> float:
        """A number from ``low`` to ``high``."""

        def bounded(node: Node, what: str) -> float:
            value = self._number(node, what)
            if not low <= value <= high:
                upper = "" if math.isinf(high) else f" and at most {high:g}"
                raise self.report.error(
                    f"{what} must be at least {low:g}{upper}, got {describe(node)}", node.line
                )
            return value

        found = self.read(key, bounded)
        return default if found is None else found

    def boolean(self, key: str, default: bool) -> bool:
        """``true`` or ``false``."""

        def truth(node: Node, what: str) -> bool:
            if isinstance(node, ScalarNode) and node.is_boolean and node.text.lower() in _TRUTH:
                return _TRUTH[node.text.lower()]
            raise self.report.error(
                f"{what} must be true or false, got {describe(node)}", node.line
            )

        found = self.read(key, truth)
        return default if found is None else found

    def items(self, key: str) -> tuple[Node, ...]:
        """The elements of a list; nothing where it is absent or no list."""

        def listed(node: Node, what: str) -> tuple[Node, ...]:
            if not isinstance(node, ListNode):
                raise self.report.error(f"{what} must be a list, got {describe(node)}", node.line)
            if not node.items:
                raise self.report.error(f"{what} is empty", node.line)
            return node.items

        return self.read(key, listed) or ()

    def _number(self, node: Node, what: str) -> float:
        if isinstance(node, ScalarNode) and node.is_number and not node.quoted:
            value = float(node.text)
            if math.isfinite(value):
                return value
        raise self.report.error(f"{what} must be a number, got {describe(node)}", node.line)


_TRUTH = {"true": True, "false": False}
