"""A recipe as a tree of untyped nodes that know their line.

Scalars keep their text, because what ``1e-3``, ``yes`` or ``0.5`` means depends on the parameter
that it is written for: YAML 1.1 (mergekit's loader) and YAML 1.2 disagree about several forms.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TypeAlias, TypeVar

from mergesafe.errors import RecipeError

#: Deeper than any recipe; stops runaway nesting before Python's recursion limit does.
MAX_DEPTH = 32
#: Keys and values after expanding aliases, read in two seconds. The longest recipes are those that
#: tuning writes with an entry for each tensor: five of these in 85 bytes, of a million at most.
MAX_NODES = 60_000
#: Mistakes after which a recipe is not read on: building messages takes time.
MAX_ERRORS = 100

#: Digits are read in one way only: in two, a long number and a letter take quadratic time.
NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
NOT_FINITE = re.compile(r"[-+]?\.?(?:nan|inf|infinity)", re.IGNORECASE)
#: Integers with a leading zero: octal in YAML 1.1, decimal in YAML 1.2.
OCTAL = re.compile(r"[-+]?0\d+", re.ASCII)
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NULLS = frozenset(("", "~", "null", "Null", "NULL"))


@dataclass(frozen=True, slots=True)
class ScalarNode:
    text: str
    quoted: bool
    line: int | None = None
    size: int = 1

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.text in NULLS

    @property
    def is_boolean(self) -> bool:
        return not self.quoted and self.text.lower() in BOOLEANS

    @property
    def is_number(self) -> bool:
        return NUMBER.fullmatch(self.text) is not None


@dataclass(frozen=True, slots=True)
class ListNode:
    items: tuple[Node, ...]
    line: int | None = None
    size: int = 1


@dataclass(frozen=True, slots=True)
class MapNode:
    """``entries``: key -> (line of the key, value)."""

    entries: Mapping[str, tuple[int | None, Node]]
    line: int | None = None
    size: int = 1

    def __iter__(self) -> Iterator[tuple[str, int | None, Node]]:
        return ((key, line, value) for key, (line, value) in self.entries.items())

    def get(self, key: str) -> Node | None:
        """The value of ``key``; None when it is absent or null."""
        value = self.entries[key][1] if key in self.entries else None
        return None if isinstance(value, ScalarNode) and value.is_null else value


Node: TypeAlias = ScalarNode | ListNode | MapNode
Result = TypeVar("Result")


class Reporter:
    """Builds and collects errors and warnings that say ``file:line:``.

    What makes sense without the wrong part is read on, so that one run reports all mistakes.
    Recipes may be hostile: control characters never reach the terminal unescaped.
    """

    def __init__(self, source: Path | None, kind: str = "recipe") -> None:
        self.source = source
        #: What is read, for messages.
        self.kind = kind
        self.warnings: list[str] = []
        self.errors: list[RecipeError] = []

    def error(self, message: str, line: int | None = None) -> RecipeError:
        message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        return RecipeError(message, source=self.source, line=line)

    def record(self, message: str, line: int | None = None) -> None:
        """Report a mistake that does not keep the caller from reading on."""
        self._keep(self.error(message, line))

    def attempt(self, read: Callable[..., Result], *args: object) -> Result | None:
        """``read(*args)``, or None when it raises, which is recorded."""
        try:
            return read(*args)
        except RecipeError as error:
            if len(self.errors) >= MAX_ERRORS:
                raise
            self._keep(error.with_traceback(None))
            return None

    def _keep(self, error: RecipeError) -> None:
        self.errors.append(error)
        if len(self.errors) >= MAX_ERRORS:
            raise RecipeError.joined(self.errors, stopped=True)

    def warn(self, message: str, line: int | None = None) -> None:
        self.warnings.append(str(self.error(message, line)))


def shown(text: str, limit: int = 80) -> str:
    """``text`` in quotes and of bounded length, for a message."""
    return f"'{shortened(text, limit)}'"


def shortened(text: str, limit: int = 80) -> str:
    """``text`` of bounded length."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe(node: Node) -> str:
    """What a node is, for "expected ..., got ..."."""
    if isinstance(node, MapNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    if node.is_null:
        return "nothing"
    if not node.quoted and (node.is_boolean or node.is_number):
        return f"the {'boolean' if node.is_boolean else 'number'} {shortened(node.text)}"
    return f"the text {shown(node.text)}"


def mapping(node: Node, what: str, report: Reporter) -> MapNode:
    """``node`` as a mapping, or an error that says what ``what`` must be."""
    if isinstance(node, MapNode):
        return node
    raise report.error(f"{what} must be a mapping (key: value), got {describe(node)}", node.line)


def string(node: Node, what: str, report: Reporter) -> str:
    """``node`` as text that is not empty and has no control characters.

    Unquoted words that a YAML loader may read as a number or boolean are refused, because
    mergekit would not see text there.
    """
    if not isinstance(node, ScalarNode):
        raise report.error(f"{what} must be text, got {describe(node)}", node.line)
    if not node.quoted and (node.is_boolean or node.is_number):
        raise report.error(
            f"{what} must be text, got {describe(node)}; if it is meant as text, put it in "
            f'quotes: "{shortened(node.text)}"',
            node.line,
        )
    if not node.text or node.is_null:
        raise report.error(f"{what} is empty", node.line)
    if not node.text.isprintable():
        raise report.error(
            f"{what} contains control characters or line breaks: {shown(node.text)}", node.line
        )
    return node.text


class FromPython:
    """Builds the tree of a recipe that was given as Python data."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self.nodes = 0

    def node(self, value: object, where: str = "the recipe", depth: int = 0) -> Node:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise self.report.error(
                f"{where}: nested deeper than {MAX_DEPTH} levels or more than {MAX_NODES} values"
            )
        if isinstance(value, Mapping):
            entries = {
                self._key(key, where): self.node(item, f"{where}, {key!r}", depth + 1)
                for key, item in value.items()
            }
            return MapNode({key: (None, item) for key, item in entries.items()})
        if isinstance(value, list | tuple):
            items = (self.node(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value))
            return ListNode(tuple(items))
        return self._scalar(value, where)

    def _key(self, key: object, where: str) -> str:
        if isinstance(key, str):
            return key
        raise self.report.error(f"{where} has the key {key!r}; keys must be text")

    def _scalar(self, value: object, where: str) -> ScalarNode:
        if isinstance(value, str | os.PathLike):
            return ScalarNode(str(os.fspath(value)), quoted=True)
        if value is None:
            return ScalarNode("null", quoted=False)
        if isinstance(value, bool):
            return ScalarNode("true" if value else "false", quoted=False)
        if isinstance(value, Real):
            return ScalarNode(_number_text(value), quoted=False)
        raise self.report.error(
            f"{where} has a value of type {type(value).__name__}; expected text, a number, a "
            "boolean, a list or a mapping"
        )


def _number_text(value: Real) -> str:
    try:
        return repr(float(value))
    except OverflowError:  # an integer beyond float64: refused later as not finite
        return "inf"
