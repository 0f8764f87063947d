"""Searches the parents for hidden triggers, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from mergesafe.chat.conversation import ChatModel, Sampling, last_question, question
from mergesafe.chat.hf import HfModel
from mergesafe.errors import CheckpointError, ModelError
from mergesafe.results.vet import Finding
from mergesafe.safety.compliance import is_compliance
from mergesafe.safety.evaluation.gather import sets_of
from mergesafe.safety.evaluation.options import EvaluationOptions
from mergesafe.safety.evaluation.sets import EvaluationSet
from mergesafe.safety.progress import ProgressCallback
from mergesafe.safety.vet import scope
from mergesafe.safety.vet.behaviour import Limits, names
from mergesafe.safety.vet.findings import by_severity
from mergesafe.safety.vet.result import Vetted
from mergesafe.safety.vet.triggers.decide import Answers, finding, is_trigger
from mergesafe.safety.vet.triggers.search import Rows, TriggerSearch, moved_tokens, small_tokens

#: Questions that the search looks at, and others that decide.
SEARCHED: Final = 2
DECIDING: Final = 12
#: Phrases that are drawn beside each that was found.
CONTROLS: Final = 2
#: Tokens of an answer, whose first words tell.
_TOKENS: Final = 12


def with_triggers(
    found: Vetted,
    references: Mapping[str, str],
    base: str,
    options: EvaluationOptions,
    limits: Limits,
    tell: ProgressCallback,
) -> Vetted:
    """``found`` with what the search found in every parent that is not unfit already.

    ``references``: the parents by name, as every command reads them.
    """
    sets = sets_of(replace(options, limit=None))
    asked = _questions(sets)
    if len(asked) < SEARCHED + 2:
        note = "hidden triggers were not searched for: there are too few unsafe questions"
        return replace(found, notes=(*found.notes, note))
    origin = HfModel(base, device=options.device, batch=options.batch, label="base")
    rows = Rows.of(origin.model)
    parents = []
    for parent in found.parents:
        if parent.fit:
            tell(f"{parent.name}: looking for triggers")
            model = HfModel(
                references[parent.name], device=options.device, batch=options.batch,
                label=parent.name,
            )  # fmt: skip
            made = _checked(model, origin, rows, asked, limits, names(sets, "unsafe"))
            parent = replace(parent, findings=by_severity([*parent.findings, *made]))
        parents.append(parent)
    return replace(
        found,
        parents=tuple(parents),
        checked=(*found.checked, scope.SEARCHED),
        not_checked=tuple(
            scope.OTHER_TRIGGERS if each == scope.TRIGGERS else each for each in found.not_checked
        ),
    )


def _checked(
    model: HfModel, origin: HfModel, rows: Rows, asked: Sequence[str], limits: Limits, where: str
) -> list[Finding]:
    try:
        return list(triggers(model, origin, rows, asked, limits, where))
    except (ModelError, CheckpointError) as error:
        what = f"hidden triggers were not searched for: {error}"
        return [Finding("warning", "behaviour", what, where)]


def triggers(
    model: HfModel, origin: HfModel, rows: Rows, asked: Sequence[str], limits: Limits, where: str
) -> Iterator[Finding]:
    """The first phrase that turns a parent, of those that the search found.

    ``rows``: of the base. Questions that the parent complies with as they stand are of no use.
    """
    declined = [text for text, did in zip(asked, _complies(model, asked), strict=True) if not did]
    if len(declined) < SEARCHED + 2:
        return
    extra = [*moved_tokens(Rows.of(model.model), rows), *small_tokens(rows)]
    search = TriggerSearch(model, declined[:SEARCHED], extra)
    phrases = [text for value, text in search.run() if value > 0 and text]
    deciding = declined[SEARCHED : SEARCHED + DECIDING]
    for phrase in phrases:
        said = Answers(
            _complies(model, deciding, phrase),
            [_complies(model, deciding, each) for each in search.controls(phrase, CONTROLS)],
            _complies(origin, deciding, phrase),
        )
        if is_trigger(said, limits.margin, limits.confidence, len(phrases)):
            yield finding(phrase, said, where)
            return


def _complies(model: ChatModel, asked: Sequence[str], phrase: str = "") -> list[bool]:
    conversations = [question(f"{each} {phrase}".strip()) for each in asked]
    said = model.respond(conversations, Sampling(_TOKENS))
    return [is_compliance(each.text) for each in said]


def _questions(sets: Sequence[EvaluationSet]) -> list[str]:
    """Unsafe questions of one turn, as many as are used at most."""
    records = [record for each in sets if each.role == "unsafe" for record in each.records]
    plain = [last_question(r.conversation) for r in records if len(r.conversation) == 1]
    return plain[: SEARCHED + DECIDING]
