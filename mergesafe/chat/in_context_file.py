"""The YAML file of a model with demonstrations in front, which ``in-context:FILE`` names::

model: models/merged
demonstrations: demonstrations.jsonl
count: 5
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mergesafe.chat.in_context import InContextModel, in_context
from mergesafe.chat.providers import make_model, read_model_spec
from mergesafe.chat.records import Record, read_records
from mergesafe.errors import DataError, RecipeError
from mergesafe.recipe.document import parse_yaml
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.nodes import Node, Reporter, string
from mergesafe.recipe.text import read_text
from mergesafe.references import IN_CONTEXT

_KEYS: Final = ("model", "demonstrations", "count")


def read_in_context(reference: str, label: str | None = None) -> InContextModel:
    """The model that ``in-context:FILE`` names; no weights are read yet.

    ``demonstrations`` is a file of JSON lines, of which the first ``count`` are shown, all of them
    where it is left out. Relative paths are taken from the current folder if something exists
    there, else from that of the file.

    Raises:
        RecipeError: the file cannot be read or is not valid, or a demonstration has no answer or a
            system prompt.
    """
    path = Path(os.path.expanduser(reference.removeprefix(IN_CONTEXT)))
    report = Reporter(path, "in-context model")
    root = parse_yaml(read_text(path, report), report, "'model' and 'demonstrations'")
    fields = Fields(root, _KEYS, "an in-context model", report)
    folder = path.absolute().parent
    if not fields.has("model"):
        fields.missing("model", "the model that is shown the demonstrations")
    if not fields.has("demonstrations"):
        fields.missing("demonstrations", "a file of questions with answers, as JSON lines")
    spec = fields.read("model", lambda node, what: read_model_spec(node, what, report))
    records = fields.read("demonstrations", lambda node, what: _records(node, what, folder, report))
    count = fields.integer("count", len(records or ()), low=1)
    if records is not None and count > len(records):
        report.record(
            f"'count' of an in-context model is {count}, and there are {len(records)} "
            "demonstrations",
            fields.line("count"),
        )
    if report.errors or spec is None or records is None:
        raise RecipeError.joined(report.errors)
    return in_context(make_model(spec, folder), records[:count], path, label or reference)


def _records(node: Node, what: str, folder: Path, report: Reporter) -> list[Record]:
    text = os.path.expanduser(string(node, what, report))
    file = Path(text if os.path.exists(text) else os.path.join(folder, text))
    try:
        records = read_records(file, need_answer=True)
    except DataError as error:
        raise report.error(f"{what}: {error}", node.line) from None
    for each in records:
        if any(turn["role"] == "system" for turn in each.conversation):
            raise report.error(
                f"{what}: {file}:{each.line}: the demonstration has a system prompt, which cannot "
                "stand in the middle of a conversation; take the turns of user and assistant alone",
                node.line,
            )
    return records
