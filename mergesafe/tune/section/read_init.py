"""``init`` of the ``tune`` section: where the search starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mergesafe.errors import did_you_mean
from mergesafe.recipe.fields import Fields, number
from mergesafe.recipe.nodes import MapNode, Node, ScalarNode, mapping, shortened, shown
from mergesafe.tune.section.sections import DATA_FREE

_WHAT = "'init' of 'tune'"


@dataclass(frozen=True)
class Init:
    """``values``: starts by coefficient. ``weights``: the rule for the weights, of
    :data:`mergesafe.tune.section.sections.DATA_FREE`; None without one.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    weights: str | None = None


def read_init(
    fields: Fields, bounds: Mapping[str, tuple[float, float]], tunable: Sequence[str]
) -> Init:
    """Starts of the coefficients that ``init`` names; the others start at the recipe's values.

    A number or a rule alone is for the weights, or t. ``bounds``: of what is tuned. ``tunable``:
    what could be. Mistakes are recorded.
    """
    report, node = fields.report, fields.node.get("init")
    if node is None or (isinstance(node, ScalarNode) and node.text == "recipe"):
        return Init()
    if isinstance(node, ScalarNode):
        name = next((each for each in ("weight", "t", *bounds) if each in bounds), None)
        rule = node.text in DATA_FREE
        if not rule and name not in ("weight", "t") and len(bounds) > 1:
            report.record(
                f"{_WHAT} is a number, and {', '.join(bounds)} are tuned; write "
                f"{{{name}: {shortened(node.text)}}} or all of them",
                fields.line("init"),
            )
            return Init()
        entries = {} if name is None else {name: (fields.line("init"), node)}
        node = MapNode(entries, node.line)
    values: dict[str, float] = {}
    weights = None
    for name, line, value in report.attempt(mapping, node, _WHAT, report) or ():
        if name not in bounds:
            hint = did_you_mean(name, bounds)
            if name in tunable:
                hint = f"; add it to 'coefficients': [{', '.join((*bounds, name))}]"
            report.record(f"'init' has {shown(name)}, which is not tuned{hint}", line)
        elif (rule_of := _rule(value)) is None:
            what = f"the start of '{name}'"
            if name == "weight":
                what += f", unless it is one of the rules {' and '.join(DATA_FREE)},"
            found = report.attempt(number, value, what, report, *bounds[name])
            if found is not None:
                values[name] = found
        elif name == "weight":
            weights = rule_of
        else:
            report.record(
                f"'init: {rule_of}' finds weights of task vectors, and '{name}' is none; give it a "
                "number, or tune the weights of a method that has them",
                line,
            )
    return Init(values, weights)


def _rule(node: Node) -> str | None:
    is_rule = isinstance(node, ScalarNode) and node.text in DATA_FREE
    return node.text if is_rule and isinstance(node, ScalarNode) else None
