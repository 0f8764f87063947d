"""The searches of a ``tune`` section, their options and budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mergesafe.recipe.fields import Fields, choice
from mergesafe.recipe.nodes import MapNode, Node, Reporter, ScalarNode, describe
from mergesafe.tune.search.registry import SEARCHES
from mergesafe.tune.search.search import Option, OptionReader
from mergesafe.tune.section.read_options import positive
from mergesafe.tune.section.sections import Budget, SearchSpec

#: Chained searches; more is a mistake.
MAX_CHAIN: Final = 8


def read_searches(fields: Fields, default: Budget) -> tuple[SearchSpec, ...]:
    """The search under ``search`` and those chained to it by ``then``, first to last.

    None of them with ``search: none``.
    """
    report = fields.report
    node = fields.node.get("search")
    if is_none(node):
        return ()
    if node is None:
        return (_spec("gradient", None, default, report, fields.node.line),)
    found: list[SearchSpec] = []
    following: Node | None = node
    while following is not None:
        if len(found) == MAX_CHAIN:
            report.record(f"more than {MAX_CHAIN} searches are chained", following.line)
            break
        read = report.attempt(_read, following, default, report)
        if read is not None:
            found.append(read)
        following = following.get("then") if isinstance(following, MapNode) else None
    return tuple(found)


def is_none(node: Node | None) -> bool:
    """Whether ``search: none`` asks for the start alone."""
    return isinstance(node, ScalarNode) and node.text == "none"


def _read(node: Node, default: Budget, report: Reporter) -> SearchSpec:
    known = tuple(SEARCHES)
    if not isinstance(node, MapNode):
        return _spec(choice(node, "'search'", known, report), None, default, report, node.line)
    method = node.get("method")
    if method is None:
        raise report.error(
            f"a search has no 'method'; one of {', '.join(sorted(known))}", node.line
        )
    name = choice(method, "'method' of a search", known, report)
    return _spec(name, node, default, report, node.line)


def _spec(
    name: str, node: MapNode | None, default: Budget, report: Reporter, line: int | None
) -> SearchSpec:
    search = SEARCHES[name]
    own = search.options
    options = {key: value for key, (value, _) in own.items()}
    budget = default
    if node is not None:
        what = f"the search '{name}'"
        fields = Fields(node, ("method", "then", "budget", *own), what, report)
        for key, (value, reader) in own.items():
            found = fields.read(key, _bound(reader, report))
            options[key] = value if found is None else found
        budget = read_budget(fields, what) if fields.has("budget") else default
    if budget == Budget():
        budget = Budget(steps=search.steps)
    return SearchSpec(name, options, budget, line)


def _bound(reader: OptionReader, report: Reporter) -> Callable[[Node, str], Option]:
    return lambda node, what: reader(node, what, report)


def read_budget(fields: Fields, what: str) -> Budget:
    """``budget``: any of steps, evaluations and minutes."""
    node = fields.node.get("budget")
    if node is None:
        return Budget()
    if not isinstance(node, MapNode) or not node.entries:
        raise fields.report.error(
            f"'budget' of {what} must be a mapping such as {{steps: 100}}, got {describe(node)}",
            node.line,
        )
    own = Fields(node, ("steps", "evaluations", "minutes"), f"'budget' of {what}", fields.report)
    minutes = own.read("minutes", lambda node, what: positive(node, what, own.report))
    steps, evaluations = (
        own.integer(key, 1, 1) if own.has(key) else None for key in ("steps", "evaluations")
    )
    return Budget(steps, evaluations, minutes)
