"""Sections of evaluations: the plane, every metric, the judges."""

from __future__ import annotations

from collections.abc import Iterator

from mergesafe.report.content import Content, Model
from mergesafe.report.figures.intervals import intervals
from mergesafe.report.figures.plane import MAX_NAMES, Direction, Point, plane
from mergesafe.report.measure import Measure
from mergesafe.report.sections.parts import Group, Picture, Section
from mergesafe.report.sections.tables import Cell, Table
from mergesafe.report.text import (
    DASH,
    MINUS,
    figure,
    is_share,
    measured,
    metric_name,
    number,
    p_value,
    percent,
    points,
)
from mergesafe.report.verdict import SIGNIFICANT
from mergesafe.results.evaluation import CorrectedRate, Evaluation
from mergesafe.results.gate import Gate
from mergesafe.results.metrics import is_nll, is_skill, lower_is_better
from mergesafe.results.numbers import Rate

_MEANING = {
    "safe_rate": "Share of the unsafe questions whose answer the judge calls safe.",
    "refusal_rate": "Share of the unsafe questions that are declined.",
    "over_refusal": "Share of the harmless questions that are declined: less is better.",
}
#: More paired tests than this are folded: there is one for any two models and each metric.
MAX_TESTS = 12
ROLES = {
    "base": "base model",
    "parent": "parent",
    "merge": "merge",
    "baseline": "baseline of a gate",
    "model": "model",
}


def safety_and_skill(content: Content) -> Iterator[Section]:
    """A plane for each skill."""
    safety = next((m for m in ("safe_rate", "refusal_rate") if m in content.metrics), None)
    skills = [m for m in content.metrics if is_skill(m)]
    if safety is None:
        return
    pictures = []
    for i, skill in enumerate(skills):
        shown = [m for m in content.models if _known(m, safety) and _known(m, skill)]
        if shown:
            pictures.append(_plane(content, f"plane-{i}", shown, safety, skill))
    if not pictures:
        return
    marks = {
        "base": "a square is the base model",
        "parent": "an open circle a parent",
        "merge": "a filled diamond a merge",
        "baseline": "an open triangle the baseline of a gate",
    }
    roles = [role for role in marks if any(m.role == role for m in content.models)]
    legend = "; ".join(marks[role] for role in roles)
    intro = (
        "Up is safer, right is more skilled. Lines through a mark are "
        f"{content.confidence} intervals in both directions: marks whose lines reach "
        "each other may differ by chance."
    )
    if legend:
        intro += f" {legend[0].upper()}{legend[1:]}."
    if len(content.models) > MAX_NAMES:
        intro += " Numbers are those of the table of metrics below."
    yield Section("plane", "Safety and skill", intro, [Group(pictures=pictures)])


def _plane(content: Content, ident: str, shown: list[Model], safety: str, skill: str) -> Picture:
    share = is_share(skill, content.measures(skill))
    required = [
        r.bound
        for _, gate in content.of(Gate)
        for r in gate.requirements
        if r.metric == safety and r.above
    ]
    described = "; ".join(
        f"{m.short} ({ROLES[m.role]}): {metric_name(safety)} {measured(m.metrics[safety], True)}, "
        f"{metric_name(skill)} {measured(m.metrics[skill], share)}"
        for m in shown
    )
    image = plane(
        ident,
        f"{metric_name(safety)} against {metric_name(skill)}",
        described,
        [Point(m.short, m.metrics[skill], m.metrics[safety], m.role) for m in shown],
        Direction(metric_name(skill), share, lower_is_better(skill)),
        Direction(f"{metric_name(safety)} (unsafe questions)", True),
        required=max(required, default=None),
    )
    way = "; the axis runs backwards, less is better" if lower_is_better(skill) else ""
    return Picture(image, f"{metric_name(safety)} against {metric_name(skill)}{way}.")


def measures(content: Content) -> Iterator[Section]:
    """Every metric of every model, and the paired tests."""
    if not content.models:
        return
    pictures = []
    for i, metric in enumerate(content.metrics):
        share = is_share(metric, content.measures(metric))
        rows = [(m.short, m.role, m.metrics[metric]) for m in content.models if _known(m, metric)]
        if not rows:
            continue
        described = "; ".join(f"{name}: {measured(m, share)}" for name, _, m in rows)
        image = intervals(f"metric-{i}", metric_name(metric), described, rows, share=share)
        pictures.append(Picture(image, _meaning(metric), metric_name(metric)))
    tables = [_metrics_table(content)]
    if content.comparisons:
        tables.append(_tests_table(content))
    sets = dict.fromkeys(
        (s.name, f"{s.role}, {s.records:,} records, SHA-256 {s.sha256[:12] or DASH}")
        for _, evaluation in content.of(Evaluation)
        for s in evaluation.sets
    )
    yield Section(
        "metrics",
        "Metrics",
        f"Figures with {content.confidence} confidence intervals.",
        [Group(pictures=pictures, tables=tables), Group("Question sets", facts=list(sets))],
    )


def _meaning(metric: str) -> str:
    family = metric.partition(".")[0]
    if family in _MEANING:
        return _MEANING[family]
    if is_nll(metric):
        return "Mean loss (NLL) on the reference answers, in nats a token: less is better."
    if family == "lm_eval":
        return "A task of lm-evaluation-harness" + (
            ": less is better." if lower_is_better(metric) else "."
        )
    return "Share of the domain's questions that are answered correctly."


def _metrics_table(content: Content) -> Table:
    rows = []
    for i, model in enumerate(content.models):
        row = [Cell(model.short, f"{i + 1} · {ROLES[model.role]}", model.name)]
        for metric in content.metrics:
            measure = model.metrics.get(metric, Measure(None))
            share = is_share(metric, content.measures(metric))
            low, high = (figure(x, share, unit=False) for x in (measure.low, measure.high))
            note = f"[{low}, {high}]" if measure.low is not None else ""
            note += f" n = {measure.n}" if measure.n is not None else ""
            row.append(Cell(figure(measure.value, share), note))
        rows.append(row)
    heads = [metric_name(m) + (" ↓" if lower_is_better(m) else "") for m in content.metrics]
    return Table(
        "metrics-table",
        "All figures, with intervals; ↓ marks those of which less is better",
        ["Model", *heads],
        rows,
        numeric=len(heads),
    )


def _tests_table(content: Content) -> Table:
    rows = []
    for c in content.comparisons:
        share = is_share(c.metric, content.measures(c.metric))
        interval = f"[{points(c.low, share)}, {points(c.high, share)}]"
        beyond = c.p < SIGNIFICANT
        rows.append(
            [
                Cell(f"{content.short(c.first)} {MINUS} {content.short(c.second)}"),
                Cell(metric_name(c.metric)),
                Cell("beyond chance" if beyond else "may be chance"),
                Cell(points(c.difference, share) + (" points" if share else ""), interval),
                Cell(p_value(c.p)),
                Cell(p_value(c.p_holm)),
            ]
        )
    return Table(
        "tests-table",
        "Paired tests on the same questions; p is as tested, p (Holm) is corrected for the number "
        "of comparisons of the evaluation",
        ["Models", "Metric", f"At p < {SIGNIFICANT}", "Difference", "p", "p (Holm)"],
        rows,
        numeric=3,
        folded=len(rows) > MAX_TESTS,
    )


def agreement(content: Content) -> Iterator[Section]:
    """Which judges, Cohen's kappa between them, and what they get wrong of labelled responses."""
    judges = list(dict.fromkeys(
        (j.name, j.version) for _, evaluation in content.of(Evaluation) for j in evaluation.judges
    ))  # fmt: skip
    if not judges and not content.agreement:
        return
    rows = [
        [
            Cell(f"{a.first} and {a.second}"),
            Cell("is it safe?" if a.about == "safe" else "does it refuse?"),
            Cell(number(a.kappa), _strength(a.kappa)),
            Cell(f"{a.n:,}"),
        ]
        for a in content.agreement
    ]
    kappas = Table(
        "kappa-table",
        "Cohen's kappa: 1 is perfect agreement, 0 what chance gives",
        ["Judges", "Question", "Kappa", "Answers"],
        rows,
        numeric=2,
    )
    tables = [table for table in (kappas, _errors(content), _calibration(content)) if table.rows]
    yield Section(
        "judges",
        "Judges",
        "Whether an answer is safe and whether it refuses are two questions. Judges disagree, so "
        "rates are those of the first judge named here.",
        [Group(facts=judges, tables=tables)],
    )


def _errors(content: Content) -> Table:
    """What was measured of the judges before."""
    rows = [
        [
            Cell(found.judge),
            Cell(found.labels),
            Cell(found.about),
            Cell(_share(found.sensitivity)),
            Cell(_share(found.specificity)),
            Cell(f"{found.sensitivity.n} + {found.specificity.n}"),
        ]
        for found in dict.fromkeys(
            each for _, evaluation in content.of(Evaluation) for each in evaluation.judge_errors
        )
    ]
    return Table(
        "judge-errors-table",
        "What was measured of the judges before, on responses of other models that people "
        "labelled: how many of those that refuse, or that are not harmful, they call so, and how "
        "many of the others not. On a model of yours they may err more or less often",
        ["Judge", "Labels", "About", "Sensitivity", "Specificity", "Responses"],
        rows,
        numeric=1,
    )


def _calibration(content: Content) -> Table:
    """Judges on labelled responses, and the rates without their errors."""
    rows = [
        [
            Cell(found.judge),
            Cell(metric_name(rate.metric)),
            Cell(_share(found.sensitivity)),
            Cell(_share(found.specificity)),
            Cell(content.names.canonical(rate.model)),
            Cell(_share(rate)),
        ]
        for _, evaluation in content.of(Evaluation)
        for found in evaluation.calibration
        for rate in found.corrected
    ]
    return Table(
        "calibration-table",
        "Judges on responses that people labelled: of what is so, the share that they say is so; "
        "of what is not, the share that they say is not; and rates without these errors (Rogan and "
        "Gladen 1978)",
        ["Judge", "Metric", "Sensitivity", "Specificity", "Model", "Corrected rate"],
        rows,
        numeric=1,
    )


def _share(found: Rate | CorrectedRate) -> str:
    low, high = percent(found.low, unit=False), percent(found.high, unit=False)
    return f"{percent(found.value)} [{low}, {high}]"


def _strength(kappa: float | None) -> str:
    """The words of Landis and Koch (1977)."""
    if kappa is None:
        return "undefined: both judges gave one answer throughout"
    bounds = (0, "poor"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial")
    return next((word for bound, word in bounds if kappa <= bound), "almost perfect")


def _known(model: Model, metric: str) -> bool:
    return metric in model.metrics and model.metrics[metric].value is not None
