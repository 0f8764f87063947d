"""Sections about checks: the gate after a merge, the vetting before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mergesafe.report.content import Content
from mergesafe.report.measure import Measure
from mergesafe.report.sections.parts import Group, Section
from mergesafe.report.sections.tables import Cell, Table
from mergesafe.report.text import DASH, measured, metric_name
from mergesafe.results.gate import Gate, ModelIdentity, Requirement
from mergesafe.results.metrics import is_nll
from mergesafe.results.vet import Vet, VettedModel

_SEVERITY: Final = {"unfit": "bad", "warning": "warn", "note": "info"}


def gates(content: Content) -> Iterator[Section]:
    """Every requirement with what was measured."""
    groups = []
    for i, (_, gate) in enumerate(content.of(Gate)):
        against = f", baseline {content.short(gate.baseline)}" if gate.baseline else ""
        outcome = "passed" if gate.passed else "failed"
        table = Table(
            f"gate-{i}",
            f"{content.short(gate.model)}{against}: {outcome}",
            ["Requirement", "Met", "Measured", "Why"],
            [_requirement(requirement) for requirement in gate.requirements],
        )
        groups.append(Group(facts=list(_evidence(gate)), tables=[table]))
    if groups:
        yield Section(
            "gate",
            "Gate",
            "A requirement is met when the whole confidence interval meets it, not when the point "
            "alone does.",
            groups,
        )


def _evidence(gate: Gate) -> Iterator[tuple[str, str]]:
    """What the decisions rest on, digests in full."""
    found = gate.evidence
    for role, model in (("Model", found.model), ("Baseline", found.baseline)):
        if isinstance(model, ModelIdentity):
            read = [] if model.reference in (None, model.name) else [f"read from {model.reference}"]
            yield role, ", ".join([model.name, *read, f"identity {model.identity}"])
    for i, judge in enumerate(found.judges):
        yield "Judge beside it" if i else "Judge", f"{judge.name}, version {judge.version}"
    for each in found.sets:
        yield f"Set {each.name}", f"{each.role}, {each.records:,} questions, SHA-256 {each.sha256}"
    level, joint = (f"{100 * each:g} %" for each in (found.confidence, found.joint_confidence))
    together = f"; of all together at least {joint}" if len(gate.requirements) > 1 else ""
    yield "Confidence", f"{level} of each requirement{together}"
    if found.evaluation is not None:
        yield "Evaluation", f"{found.evaluation.path}, SHA-256 {found.evaluation.sha256}"
    else:
        yield "Evaluation", "none was read: the models were asked"


def _requirement(requirement: Requirement) -> list[Cell]:
    value = Measure(requirement.value, requirement.low, requirement.high)
    met = ("met", "good") if requirement.met else ("not met", "bad")
    return [
        Cell(requirement.text),
        Cell(met[0], status=met[1]),
        Cell(measured(value, not is_nll(requirement.metric))),
        Cell(requirement.reason),
    ]


def vetting(content: Content) -> Iterator[Section]:
    """Every finding of every model."""
    groups = []
    for i, (_, vet) in enumerate(content.of(Vet)):
        table = Table(
            f"vet-{i}",
            "Findings by model",
            ["Model", "Verdict", "Finding"],
            [row for model in vet.models for row in _findings(content, model)],
        )
        groups.append(Group(tables=[table, *_merges(i, vet)]))
    if groups:
        yield Section(
            "vet",
            "Vetting of the parents",
            "What an audit before the merge found in files, weights and behaviour. One finding "
            "that makes a model unfit decides its verdict; warnings and notes do not.",
            groups,
        )


def _findings(content: Content, model: VettedModel) -> Iterator[list[Cell]]:
    name = Cell(content.short(model.name), full=model.name)
    verdict = Cell("fit", status="good") if model.fit else Cell("unfit", status="bad")
    if not model.findings:
        yield [name, verdict, Cell("nothing found")]
    for finding in model.findings:
        about = " · ".join(filter(None, (finding.severity, finding.area, finding.where)))
        yield [name, verdict, Cell(finding.what, about, status=_SEVERITY[finding.severity])]


def _merges(number: int, vet: Vet) -> Iterator[Table]:
    """How much worse each probed merge is than the worst of its parents, in every rate."""
    if not vet.merges:
        return
    rates = list(dict.fromkeys(rate for merge in vet.merges for rate in merge.interactions))
    heads = [f"{metric_name(rate)}: worse than its parents by" for rate in rates]
    rows = []
    for merge in vet.merges:
        cells = [Cell(merge.name, merge.problem)]
        for rate in rates:
            found = merge.interactions.get(rate)
            if found is None:
                cells.append(Cell(DASH))
                continue
            said = measured(Measure(found.value, found.low, found.high), True)
            status = "bad" if found.above else ""
            cells.append(Cell(said, f"than {found.parent}", status=status))
        rows.append(cells)
    yield Table(f"vet-{number}-merges", "Merges that were probed", ["Merge", *heads], rows)
