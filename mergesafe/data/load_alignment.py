"""An alignment set of a data recipe, read and checked."""

from __future__ import annotations

from mergesafe.chat.providers import ModelSpec
from mergesafe.chat.scripted import CORRECTED
from mergesafe.data.load_shared import NO_MODEL, SOURCE_KEYS, SetReader
from mergesafe.data.recipe import AlignmentSet, Source
from mergesafe.errors import ArgumentError
from mergesafe.recipe.fields import Fields
from mergesafe.recipe.nodes import Node, shown, string
from mergesafe.safety.align.criteria import BUILT_IN, Criterion, built_in, read_criteria, repeated


def read_alignment_set(
    reader: SetReader, name: str, line: int | None, fields: Fields
) -> AlignmentSet:
    """The set in ``fields``; mistakes are reported, each with its line."""
    topics = reader.topics(fields)
    questions = reader.questions(fields)
    if isinstance(questions, ModelSpec) and questions.provider == "template":
        reader.check_templates(fields, topics, questions.line)
    if not fields.has("model"):
        fields.missing("model", "what writes bad answers and corrects them")
    model = fields.read("model", reader.model) or NO_MODEL
    criteria = _criteria(reader, fields)
    if fields.has("model") and model.provider == "template":
        strange = [each.name for each in criteria if each.name != CORRECTED]
        if strange:
            fields.report.record(
                f"{fields.what} asks the templates about {', '.join(map(shown, strange))}; they "
                f"have answers for '{CORRECTED}' alone, so use a model",
                model.line,
            )
    good, good_model = fields.read("good", lambda node, what: _good(reader, node, what)) or (
        None, None,
    )  # fmt: skip
    return AlignmentSet(
        name=name,
        questions=questions,
        model=model,
        criteria=criteria,
        judge=fields.read("judge", reader.judge) or "rules",
        count=fields.integer("count", 200, low=1),
        topics=topics,
        good=good,
        good_model=good_model,
        max_new_tokens=fields.integer("max_new_tokens", 512, low=1),
        temperature=fields.number("temperature", 0.8, low=0, high=2),
        line=line,
    )


def _good(reader: SetReader, node: Node, what: str) -> tuple[Source, ModelSpec | None]:
    """Where good answers come from, and the model that gives them."""
    fields = Fields(node, (*SOURCE_KEYS, "model"), what, reader.report)
    return reader.source(fields), fields.read("model", reader.model)


def _criteria(reader: SetReader, fields: Fields) -> tuple[Criterion, ...]:
    """Built-in ones by name, and those of a file; all built-in ones where neither is there."""
    report = fields.report

    def known(node: Node) -> Criterion:
        try:
            return built_in(string(node, f"an entry of 'criteria' of {fields.what}", report))
        except ArgumentError as error:
            raise report.error(f"{error} ('criteria_file')", node.line) from None

    read = (report.attempt(known, node) for node in fields.items("criteria"))
    found = [each for each in read if each is not None]
    path = fields.read("criteria_file", reader.file)
    if path is not None:
        found += report.attempt(read_criteria, path) or ()
    for name in repeated([each.name for each in found]):
        report.record(
            f"{fields.what} has two criteria called {shown(name)}", fields.line("criteria")
        )
    if found or fields.has("criteria") or fields.has("criteria_file"):
        return tuple(found)
    return BUILT_IN
