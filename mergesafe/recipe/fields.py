"""The keys of one mapping, read strictly: what is misspelt, missing or of the wrong type is told
with its line, and reading goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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


def anchor_keys(node: MapNode, known: Sequence[str]) -> tuple[str, ...]:
    """The unknown keys of ``node`` that hold values for other keys: an alias shares its node."""
    used = {id(each) for key, _, value in node if key in known for each in _inside(value)}
    return tuple(
        key
        for key, _, value in node
        if key not in known and any(id(each) in used for each in _inside(value))
    )


def _inside(node: Node) -> Iterator[Node]:
    """The node and all that it holds, what is shared once."""
    seen: set[int] = set()
    left = [node]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, ListNode):
            left += each.items
        elif isinstance(each, MapNode):
            left += [value for _, _, value in each]


def boolean(node: Node, what: str, report: Reporter) -> bool:
    """The value of ``true`` or ``false``.

    Raises:
        RecipeError: the node is anything else.
    """
    if isinstance(node, ScalarNode) and node.is_boolean and node.text.lower() in _TRUTH:
        return _TRUTH[node.text.lower()]
    raise report.error(f"{what} must be true or false, got {describe(node)}", node.line)


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
        return (
            self.read(key, lambda node, what: choice(node, what, options, self.report)) or default
        )

    def integer(self, key: str, default: int, low: int = 0, high: int = 1 << 53) -> int:
        """A whole number from ``low`` to ``high``."""
        found = self.read(key, lambda node, what: integer(node, what, self.report, low, high))
        return default if found is None else found

    def number(self, key: str, default: float, low: float, high: float = math.inf) -> float:
        """A number from ``low`` to ``high``."""
        found = self.read(key, lambda node, what: number(node, what, self.report, low, high))
        return default if found is None else found

    def boolean(self, key: str, default: bool) -> bool:
        """``true`` or ``false``."""
        found = self.read(key, lambda node, what: boolean(node, what, self.report))
        return default if found is None else found

    def items(self, key: str) -> tuple[Node, ...]:
        """The elements of a list; nothing where it is absent or no list."""
        return self.read(key, lambda node, what: items(node, what, self.report)) or ()


def choice(node: Node, what: str, options: Sequence[str], report: Reporter) -> str:
    """``node`` as one of ``options``."""
    text = string(node, what, report)
    if text in options:
        return text
    raise report.error(
        f"{what} is {shown(text)}, expected one of {', '.join(options)}"
        f"{did_you_mean(text, options) if nearest(text, options) else ''}",
        node.line,
    )


def integer(node: Node, what: str, report: Reporter, low: int = 0, high: int = 1 << 53) -> int:
    """``node`` as a whole number from ``low`` to ``high``."""
    value = _finite(node, what, report)
    if value != int(value) or not low <= value <= high:
        limit = f"at most {high}" if value > high else f"at least {low}"
        raise report.error(
            f"{what} must be a whole number of {limit}, got {describe(node)}", node.line
        )
    return int(value)


def number(
    node: Node, what: str, report: Reporter, low: float = -math.inf, high: float = math.inf
) -> float:
    """``node`` as a number from ``low`` to ``high``."""
    value = _finite(node, what, report)
    if not low <= value <= high:
        lower = "" if math.isinf(low) else f" at least {low:g}"
        upper = "" if math.isinf(high) else f" at most {high:g}"
        both = " and" if lower and upper else ""
        raise report.error(f"{what} must be{lower}{both}{upper}, got {describe(node)}", node.line)
    return value


def items(node: Node, what: str, report: Reporter) -> tuple[Node, ...]:
    """The elements of a list that is not empty."""
    if not isinstance(node, ListNode):
        raise report.error(f"{what} must be a list, got {describe(node)}", node.line)
    if not node.items:
        raise report.error(f"{what} is empty", node.line)
    return node.items


def one_or_more(node: Node, what: str, report: Reporter) -> tuple[Node, ...]:
    """The elements of a list that is not empty; anything else counts as a list of one."""
    return items(node, what, report) if isinstance(node, ListNode) else (node,)


def _finite(node: Node, what: str, report: Reporter) -> float:
    if isinstance(node, ScalarNode) and node.is_number and not node.quoted:
        value = float(node.text)
        if math.isfinite(value):
            return value
    raise report.error(f"{what} must be a number, got {describe(node)}", node.line)


_TRUTH = {"true": True, "false": False}
