"""The data sets of a ``tune`` section."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final, cast

from mergesafe.errors import ArgumentError, did_you_mean
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.model import ModelRef, Recipe
from mergesafe.recipe.model_reader import read_model
from mergesafe.recipe.nodes import ListNode, MapNode, Node, Reporter, describe, shown
from mergesafe.safety.evaluation.sets import check_name
from mergesafe.tune.section.sections import MAX_WEIGHT, PENALTIES, ROLES, DataSet, Role

KEYS: Final = ("path", "role", "name", "weight", "heldout", "expert")
_EXAMPLE: Final = "{path: safety.jsonl, role: safety}"


def read_data(fields: Fields, recipe: Recipe) -> tuple[DataSet, ...]:
    """The list under ``data``; mistakes are recorded."""
    report = fields.report
    node = fields.node.get("data")
    if node is None:
        fields.missing("data", f"a list of data sets such as {_EXAMPLE}")
        return ()
    if not isinstance(node, ListNode) or not node.items:
        report.record(
            f"'data' of 'tune' must be a list of data sets such as {_EXAMPLE}, got "
            f"{'an empty list' if isinstance(node, ListNode) else describe(node)}",
            node.line,
        )
        return ()
    sets: dict[str, DataSet] = {}
    for item in node.items:
        each = report.attempt(_data_set, item, recipe, report)
        if each is None:
            continue
        first = sets.setdefault(each.name, each)
        if first is not each:
            where = f" (first on line {first.line})" if first.line else ""
            report.record(
                f"two data sets are called {shown(each.name)}{where}; give one another 'name'",
                each.line,
            )
    return tuple(sets.values())


def _data_set(node: Node, recipe: Recipe, report: Reporter) -> DataSet:
    if not isinstance(node, MapNode):
        raise report.error(
            f"a data set must be a mapping such as {_EXAMPLE}, got {describe(node)}", node.line
        )
    fields = Fields(node, KEYS, "a data set", report)
    path = fields.text("path")
    if path is None and not fields.has("path"):
        fields.missing("path", "a file of JSON lines")
    if not fields.has("role"):
        fields.missing("role", f"one of {', '.join(ROLES)}")
    name = fields.text("name") or PurePath(path or "data").stem
    try:
        check_name(name)
    except ArgumentError:
        raise report.error(
            f"a data set is called {shown(name)}, which a constraint cannot name; give it a "
            "'name' of letters, digits, '_' and '-'",
            fields.line("name"),
        ) from None
    if name in PENALTIES:
        raise report.error(
            f"a data set is called {shown(name)}, as the penalty on the coefficients is; give it "
            "another 'name'",
            fields.line("name"),
        )
    return DataSet(
        name=name,
        path=path or "",
        role=cast(Role, fields.choice("role", ROLES, "domain")),
        weight=fields.number("weight", 1.0, 0.0, MAX_WEIGHT),
        heldout=fields.text("heldout"),
        expert=fields.read("expert", lambda value, _: _expert(value, recipe, report)),
        line=node.line,
        path_line=fields.line("path"),
        heldout_line=fields.line("heldout"),
    )


def _expert(node: Node, recipe: Recipe, report: Reporter) -> ModelRef:
    """One of the recipe's models, by its path or by the last part of it where that is unique."""
    wanted = read_model(node, "'expert' of a data set", report)
    same = [ref for ref in recipe.inputs if ref.key == wanted.key]
    name = "+".join(wanted.places)
    named = [ref for ref in recipe.inputs if PurePath("+".join(ref.places)).name == name]
    if same or len(named) == 1:
        return (same or named)[0]
    if named:
        raise report.error(
            f"'expert' of a data set is {shown(wanted.text)}, and several of the models that are "
            f"merged are called that: {', '.join(ref.text for ref in named)}; write one in full",
            node.line,
        )
    known = [ref.text for ref in recipe.inputs]
    raise report.error(
        f"'expert' of a data set is {shown(wanted.text)}, which is not among the models that are "
        f"merged{did_you_mean(wanted.text, known)}",
        node.line,
    )
