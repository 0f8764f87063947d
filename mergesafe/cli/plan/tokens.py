"""Whose tokens the output has, and which row each special token takes in each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mergesafe.architecture.tying import embedding_of
from mergesafe.checkpoint.views.gathered import Gathered
from mergesafe.checkpoint.views.row_map import MEAN
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.engine.plan.tasks import TensorTask
from mergesafe.engine.plan.token_ids import tokenizer_of
from mergesafe.outline.sources import Operand
from mergesafe.recipe.short_names import short_names
from mergesafe.tokenizer.alignment import TokenTable
from mergesafe.tokenizer.special import SPECIAL, content_of, special_settings, special_tokens
from mergesafe.tokenizer.vocabulary import TOKENIZER
from mergesafe.untrusted import show

#: Special tokens that the text shows; the data have all.
_SHOWN: Final = 16


def tokens(plan: MergePlan) -> dict[str, Any] | None:
    """None where rows stay where they are.

    ``special_tokens``: every special token, and every token that the recipe names: its id, what it
    is for, and of every model the row that it takes: ``own``, ``lent`` by a model, the ``mean`` of
    several, or ``zero``.
    """
    table = None if plan.aligned is None else plan.aligned.table
    task = _embedding(plan)
    if plan.aligned is None or table is None or task is None:
        return None
    members = task.members
    rows = task.context.shape[0]
    special = dict(_special(plan, table.vocabulary))
    names = {index: token for token, index in table.vocabulary.items() if index in special}
    return {
        "source": plan.recipe.tokenizer_source,
        "tokenizer": plan.tokenizer.text,
        "tokens": len(table.vocabulary),
        "rows": rows,
        "models": [_counts(each, k, table) for k, each in enumerate(members)],
        "special_tokens": [
            {
                "token": names[index],
                "id": index,
                "roles": roles,
                "rows": [
                    {"model": each.model, **_row(each, k, index, members)}
                    for k, each in enumerate(members)
                ],
            }
            for index, roles in special.items()
        ],
    }


def _embedding(plan: MergePlan) -> TensorTask | None:
    name = embedding_of(plan.reference.checkpoint.tensors)
    return next((task for task in plan.tasks if task.stored == name), None)


def _special(plan: MergePlan, vocabulary: Mapping[str, int]) -> Iterator[tuple[int, list[str]]]:
    """Id and roles of every token that is listed, by id."""
    files = tokenizer_of(plan.tokenizer)
    places = [files.folder / TOKENIZER] if TOKENIZER in files.kinds else []
    places += [each.file for each in plan.built.others] if plan.built is not None else []
    found = {token for place in places for token in special_tokens(place)}
    settings = special_settings(files.folder)
    roles: dict[str, list[str]] = {}
    for role in SPECIAL:
        if isinstance(token := content_of(settings.get(role)), str):
            roles.setdefault(token, []).append(role)
    named = () if plan.recipe.tokenizer is None else plan.recipe.tokenizer.tokens
    listed = {vocabulary[t]: t for t in (*found, *roles, *named) if t in vocabulary}
    for index in sorted(listed):
        yield index, roles.get(listed[index], [])


def _row(operand: Operand, k: int, index: int, members: Sequence[Operand]) -> dict[str, Any]:
    """Which row a token takes in an operand."""
    view = operand.view
    if not isinstance(view, Gathered):
        return {"kind": "own", "row": index}
    table, row = int(view.rows.table[index]), int(view.rows.row[index])
    models = [*(each.model for each in members), *operand.lenders]
    if table == k:
        return {"kind": "own", "row": row}
    if table >= 0:
        return {"kind": "lent", "from": models[table], "row": row}
    if table == MEAN:
        return {"kind": "mean", "from": [models[j] for j, _ in view.rows.rows_of(index)]}
    return {"kind": "zero"}


def _counts(operand: Operand, k: int, table: TokenTable) -> dict[str, Any]:
    """How many tokens have a row of the model's own, and how many take another."""
    view, count = operand.view, len(table.vocabulary)
    own = count
    if isinstance(view, Gathered):
        own = int(((view.rows.table[: table.end] == k) & table.named).sum())
    return {"model": operand.model, "own_rows": own, "other_rows": count - own}


def lines(found: Mapping[str, Any] | None) -> list[str]:
    """A line for the output, one for each model, and a table of special tokens."""
    if found is None:
        return []
    names = short_names(_models(found))
    padding = found["rows"] - found["tokens"]
    behind = f", {padding:,} rows without one" if padding else ""
    text = [f"  tokens     {found['source']}: {found['tokens']:,} tokens{behind}"]
    for each in found["models"]:
        other = f", {each['other_rows']:,} of others" if each["other_rows"] else ""
        own = f"{each['own_rows']:,} rows of its own"
        text.append(f"             {names[each['model']]}: {own}{other}")
    listed = sorted(found["special_tokens"], key=_interest)[:_SHOWN]
    for each in sorted(listed, key=lambda token: token["id"]):
        roles = f" ({', '.join(each['roles'])})" if each["roles"] else ""
        where = "; ".join(f"{names[row['model']]} {_said(row, names)}" for row in each["rows"])
        text.append(f"             {each['id']:>6} {show(each['token'])}{roles}: {where}")
    if more := len(found["special_tokens"]) - len(listed):
        text.append(f"             and {more:,} more special tokens: see --json")
    return text


def _models(found: Mapping[str, Any]) -> Iterator[str]:
    """The models that are named, those that only lend rows among them."""
    yield from (each["model"] for each in found["models"])
    for token in found["special_tokens"]:
        for row in token["rows"]:
            lent_by = row.get("from", ())
            yield from [lent_by] if isinstance(lent_by, str) else lent_by


def _interest(token: Mapping[str, Any]) -> tuple[bool, bool, int]:
    """Tokens with a role and those that some model lacks come first."""
    moved = any(row["kind"] != "own" or row["row"] != token["id"] for row in token["rows"])
    return not token["roles"], not moved, token["id"]


def _said(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if row["kind"] == "own":
        return f"row {row['row']}"
    if row["kind"] == "lent":
        return f"as {names[row['from']]}'s row {row['row']}"
    if row["kind"] == "mean":
        return f"mean of {', '.join(names[each] for each in row['from'])}"
    return "zeros"
