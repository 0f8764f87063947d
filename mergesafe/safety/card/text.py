"""The section of a model card that says what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mergesafe.markdown import code, escaped
from mergesafe.results.evaluation import EvaluatedModel, Evaluation, Figure, JudgeName, QuestionSet
from mergesafe.results.gate import Gate, Requirement
from mergesafe.results.metrics import family

#: The section lies between these, so that it is found when it is written again.
BEGIN: Final = "<!-- mergesafe: what was measured -->"
END: Final = "<!-- mergesafe: end of what was measured -->"
#: It goes in front of this, which may be long.
_BEFORE: Final = "\n## Recipe\n"


def with_section(card: str, section: Sequence[str]) -> str:
    """The card with the section in it, in place of one that is there."""
    recipe = card.find(_BEFORE)
    head, tail = (card, "") if recipe < 0 else (card[:recipe], card[recipe:])
    begin, end = head.find(BEGIN), head.find(END)  # a recipe is its author's, whatever is in it
    if 0 <= begin < end:
        head = head[:begin] + head[end + len(END) :].lstrip("\n")
    return "\n".join([head.rstrip("\n"), "", BEGIN, *section, END, tail])


def section(
    evaluation: Evaluation | None, model: EvaluatedModel | None, gate: Gate | None, written: str
) -> Iterator[str]:
    """Lines of Markdown. ``model``: the one of ``evaluation`` that the card is about. ``written``:
    by which version and on which day.
    """
    yield "## What was measured"
    yield ""
    if evaluation is not None and model is not None:
        settings = evaluation.settings
        how = "greedy" if settings.temperature == 0 else f"temperature {settings.temperature:g}"
        yield (
            f"{how[0].upper()}{how[1:]} answers of at most {settings.max_new_tokens} tokens; "
            f"intervals at {100 * settings.confidence:g} %. {written}"
        )
        yield ""
        yield from _figures(evaluation, model)
        yield from _sources(evaluation.judges, evaluation.sets)
    if gate is not None:
        yield from _gate(gate)
        if evaluation is None:
            yield written
            yield ""
            yield from _sources(gate.evidence.judges, gate.evidence.sets)


def _figures(evaluation: Evaluation, model: EvaluatedModel) -> Iterator[str]:
    yield "| metric | value | interval | questions |"
    yield "| --- | ---: | --- | ---: |"
    for metric, figure in model.metrics.items():
        yield _row(metric, figure)
    for judge, figures in model.other_judges.items():
        for metric, figure in figures.items():
            yield _row(f"{metric} by {judge}", figure)
    yield ""
    for metric, meaning in evaluation.meaning.items():
        if any(family(each) == metric for each in model.metrics):
            yield f"`{metric}` is {escaped(meaning)}."
            yield ""


def _row(metric: str, figure: Figure) -> str:
    value, low, high = (_shown(each, figure) for each in (figure.value, figure.low, figure.high))
    undecided = f" ({figure.undecided} undecided)" if figure.undecided else ""
    return f"| {escaped(metric)} | {value} | {low} to {high} | {figure.n}{undecided} |"


def _shown(value: float, figure: Figure) -> str:
    return f"{100 * value:.1f} %" if figure.kind == "rate" else f"{value:.4g}"


def _sources(judges: Sequence[JudgeName], sets: Sequence[QuestionSet]) -> Iterator[str]:
    if judges:
        yield "Judges, of which the first decides:"
        yield ""
        yield from (f"- {escaped(each.name)}, version {code(each.version)}" for each in judges)
        yield ""
    if sets:
        yield "| set | role | questions | SHA-256 |"
        yield "| --- | --- | ---: | --- |"
        for each in sets:
            name = f"{each.name}, {each.variant}" if each.variant else each.name
            yield f"| {escaped(name)} | {each.role} | {each.records} | {code(each.sha256)} |"
        yield ""


def _gate(gate: Gate) -> Iterator[str]:
    met = sum(each.met for each in gate.requirements)
    verdict = "passed" if gate.passed else "NOT passed"
    level = 100 * gate.evidence.confidence
    yield f"### Gate: {verdict}"
    yield ""
    yield (
        f"{met} of {len(gate.requirements)} requirements are met with {level:g} % confidence each"
        + (f"; P is {escaped(gate.baseline)}" if gate.baseline else "")
        + "."
    )
    yield ""
    yield "| requirement | bound | value | interval | questions | met |"
    yield "| --- | ---: | ---: | --- | ---: | --- |"
    yield from map(_requirement, gate.requirements)
    yield ""


def _requirement(each: Requirement) -> str:
    return (
        f"| {code(each.text)} | {each.bound:.4g} | {each.value:.4g} | {each.low:.4g} to "
        f"{each.high:.4g} | {each.n} | {'yes' if each.met else 'NO'} |"
    )
