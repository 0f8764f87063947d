"""Sections about models and coefficients: gates, vetting, similarity, tuning, blame."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mergesafe.report.content import Content
from mergesafe.report.heat import Rows, Scale, around_one, around_zero, from_zero, heat_map
from mergesafe.report.kinds import (
    Blame,
    FrontPoint,
    Gate,
    Measure,
    Pair,
    Requirement,
    Similarity,
    Tuning,
    Vet,
)
from mergesafe.report.lines import line_chart
from mergesafe.report.plane import Direction, Point, plane
from mergesafe.report.section import Group, Picture, Section
from mergesafe.report.tables import Cell, Table, map_table
from mergesafe.report.text import is_nll, measured, metric_name, number, percent

_SEVERITY = {"unfit": "bad", "warning": "warn", "note": "info"}


def gates(content: Content) -> Iterator[Section]:
    groups = []
    for i, (_, gate) in enumerate(content.of(Gate)):
        rows = [
            [
                Cell(r.text),
                Cell("met" if r.met else "not met", status="good" if r.met else "bad"),
                Cell(_requirement(r)),
            ]
            for r in gate.requirements
        ]
        against = f", baseline {content.short[gate.baseline]}" if gate.baseline else ""
        caption = f"{content.short[gate.model]}{against}: {'passed' if gate.passed else 'failed'}"
        table = Table(f"gate-{i}", caption, ["Requirement", "Met", "Measured"], rows)
        groups.append(Group(tables=[table]))
    if groups:
        yield Section(
            "gate",
            "Gate",
            "A requirement is met when the bound of the 95 % interval that is nearer to it meets "
            "it, not when the point alone does.",
            groups,
        )


def _requirement(requirement: Requirement) -> str:
    value = Measure(requirement.value, requirement.low, requirement.high)
    return measured(value, not is_nll(requirement.metric))


def vetting(content: Content) -> Iterator[Section]:
    groups = []
    for i, (_, vet) in enumerate(content.of(Vet)):
        rows = []
        for model in vet.models:
            verdict = Cell("fit" if model.fit else "unfit", status="good" if model.fit else "bad")
            name = Cell(content.short[model.name], full=model.name)
            if not model.findings:
                rows.append([name, verdict, Cell("nothing found"), Cell("")])
            for j, f in enumerate(model.findings):
                first = [name, verdict] if j == 0 else [Cell(""), Cell("")]
                status = _SEVERITY[f.severity]
                rows.append([*first, Cell(f.what, f.where or "", status=status), Cell(f.area)])
        table = Table(
            f"vet-{i}", "Findings by model", ["Model", "Verdict", "Finding", "Area"], rows
        )
        groups.append(Group(tables=[table]))
    if groups:
        yield Section(
            "vet",
            "Vetting of the parents",
            "What an audit before the merge found in files, weights and behaviour. One finding that "
            "makes a model unfit decides its verdict; warnings and notes do not.",
            groups,
        )


def similarity(content: Content) -> Iterator[Section]:
    groups = []
    for i, (_, found) in enumerate(content.of(Similarity)):
        columns = [str(layer) for layer in found.layers]
        pictures, tables = [], []
        for measure in _SIMILARITY:
            rows = [
                (_pair_name(content, pair), values)
                for pair in found.pairs
                if (values := getattr(pair, measure)) is not None
            ]
            if rows and columns:
                heading, caption = _SIMILARITY[measure]
                ident = f"similarity-{i}-{measure}"
                drawn, scale = _similarity_scale(measure, rows)
                image = heat_map(
                    ident, heading, f"{caption} {_ranges(rows)}", drawn, columns, scale,
                    column_title="layer",
                )  # fmt: skip
                pictures.append(Picture(image, caption, heading))
                tables.append(map_table(f"{ident}-table", f"{heading}: numbers", "Layer", rows, columns))
        outputs = [pair for pair in found.pairs if pair.kl is not None or pair.top1 is not None]
        if outputs:
            tables.insert(0, _outputs_table(content, f"outputs-{i}", outputs))
        base = [("Base model", content.short[found.base])] if found.base else []
        groups.append(Group(facts=base, pictures=pictures, tables=tables))
    if groups:
        yield Section(
            "similarity",
            "Similarity of the parents",
            "Pairs of task vectors (parent minus base), layer by layer. Each strip is a pair, each "
            "cell a layer.",
            groups,
        )


_SIMILARITY = {
    "cosine": ("Cosine", "1: the same direction; 0: unrelated; −1: opposed, so that merging undoes."),
    "sign_conflict": ("Sign conflict", "Share of elements whose two changes have opposite signs; 0.5 is what chance gives."),
    "norm_ratio": ("Norm ratio", "Length of the first task vector over that of the second: the longer one dominates a plain sum."),
    "l2": ("L2 distance", "Euclidean distance of the two task vectors."),
    "cka": ("Linear CKA", "Likeness of hidden states on shared prompts; 1 is alike up to rotation and scale."),
}  # fmt: skip


def _similarity_scale(measure: str, rows: Rows) -> tuple[Rows, Scale]:
    """Rows as drawn, and their scale."""
    if measure == "cosine":
        return rows, around_zero(rows)
    if measure == "norm_ratio":
        logs = [(name, [_log2(x) for x in values]) for name, values in rows]
        return logs, around_one(logs)
    return rows, from_zero(rows, at_most=1.0 if measure == "cka" else None)


def _log2(ratio: float | None) -> float | None:
    return math.log2(ratio) if ratio is not None and ratio > 0 else None


def _ranges(rows: Rows) -> str:
    """For those who cannot see the map."""
    parts = []
    for name, row in rows:
        values = [value for value in row if value is not None]
        if values:
            parts.append(f"{name}: from {number(min(values))} to {number(max(values))}")
    return "; ".join(parts) + "."


def _pair_name(content: Content, pair: Pair) -> str:
    return f"{content.short[pair.first]} – {content.short[pair.second]}"


def _outputs_table(content: Content, ident: str, pairs: Sequence[Pair]) -> Table:
    return Table(
        ident,
        "Outputs on shared prompts",
        ["Models", "KL divergence, nats", "Same most likely token"],
        [[_pair_name(content, p), number(p.kl, 3), percent(p.top1)] for p in pairs],
        numeric=True,
    )


def tuning(content: Content) -> Iterator[Section]:
    groups = []
    for i, (document, tuned) in enumerate(content.of(Tuning)):
        pictures = [
            *_coefficients(content, f"coefficients-{i}", tuned),
            *_history(f"history-{i}", tuned),
        ]
        tables = [
            map_table(
                f"coefficients-{i}-{name}-table", f"{name}: numbers", "Group",
                _rows(content, tuned.models, rows), [str(g) for g in tuned.groups],
            )
            for name, rows in tuned.coefficients.items()
        ]  # fmt: skip
        if tuned.front:
            pictures.append(_front(f"front-{i}", tuned.front, tuned.hypervolume))
            tables.append(_front_table(f"front-{i}-table", tuned.front))
        facts = [("Granularity", tuned.granularity)] if tuned.granularity else []
        if tuned.recipe and "\n" not in tuned.recipe:
            facts.append(("Recipe", tuned.recipe))
        for constraint in tuned.constraints:
            if isinstance(constraint, str):
                facts.append(("Constraint", constraint))
            else:
                met = {True: ", met", False: ", NOT met", None: ""}[constraint.met]
                facts.append(("Constraint", f"{constraint.text}{met}"))
        groups.append(Group(facts=facts, pictures=pictures, tables=tables))
    if groups:
        yield Section(
            "tuning",
            "Coefficients and search",
            "What tuning chose for each model and group of tensors, and how it got there.",
            groups,
        )


def _rows(
    content: Content, models: Sequence[str], rows: Sequence[Sequence[float | None]]
) -> list[tuple[str, Sequence[float | None]]]:
    return [(content.short[model], row) for model, row in zip(models, rows, strict=True)]


def _coefficients(content: Content, ident: str, tuned: Tuning) -> Iterator[Picture]:
    for name, values in tuned.coefficients.items():
        rows = _rows(content, tuned.models, values)
        if not rows or not tuned.groups:
            continue
        is_signed = any(x < 0 for _, row in rows for x in row if x is not None)
        image = heat_map(
            f"{ident}-{name}", f"Coefficients: {name}", _ranges(rows), rows,
            [str(group) for group in tuned.groups],
            around_zero(rows) if is_signed else from_zero(rows),
            column_title=tuned.granularity or "group",
        )  # fmt: skip
        yield Picture(image, f"Each strip is a model, each cell its {name} in a group of tensors.", name.capitalize())


def _history(ident: str, tuned: Tuning) -> Iterator[Picture]:
    terms = dict.fromkeys(term for step in tuned.history for term in step.terms)
    series = {"objective": [(s.step, s.objective) for s in tuned.history]}
    series |= {term: [(s.step, s.terms.get(term)) for s in tuned.history] for term in terms}
    for i, (name, steps) in enumerate(series.items()):
        known = [(step, value) for step, value in steps if value is not None]
        if len(known) > 1:
            described = f"From {number(known[0][1])} at step {known[0][0]} to {number(known[-1][1])} at step {known[-1][0]}."
            yield Picture(line_chart(f"{ident}-{i}", name, described, known), "Value at each step of the search; the last is written out.", f"Search: {name}")


def _front(ident: str, front: Sequence[FrontPoint], hypervolume: float | None) -> Picture:
    ordered = sorted(front, key=lambda p: p.skill)
    share = {
        axis: all(0 <= getattr(p, axis) <= 1 for p in ordered) for axis in ("safety", "skill")
    }
    points = [
        Point(str(i + 1), Measure(p.skill), Measure(p.safety), "merge")
        for i, p in enumerate(ordered)
    ]
    image = plane(
        ident,
        "Pareto front",
        "; ".join(f"{i + 1}: safety {number(p.safety)}, skill {number(p.skill)}" for i, p in enumerate(ordered)),
        points,
        Direction("skill", share["skill"]),
        Direction("safety", share["safety"]),
        joined=True,
    )
    caption = "Coefficients of which none is better in both safety and skill; numbers are those of the table."
    if hypervolume is not None:
        caption += f" Hypervolume {number(hypervolume, 3)}."
    return Picture(image, caption, "Pareto front")


def _front_table(ident: str, front: Sequence[FrontPoint]) -> Table:
    ordered = sorted(front, key=lambda p: p.skill)
    rows = [[str(i + 1), number(p.safety, 3), number(p.skill, 3)] for i, p in enumerate(ordered)]
    return Table(ident, "Pareto front: numbers", ["Point", "Safety", "Skill"], rows, numeric=True, folded=True)


def blame(content: Content) -> Iterator[Section]:
    groups = []
    for i, (_, tuned) in enumerate(content.of(Tuning)):
        if tuned.blame is not None:
            groups.append(_blamed(content, f"blame-{i}", tuned.blame))
    if groups:
        yield Section(
            "blame",
            "Blame",
            "Which parent spoils the merge, and where: each cell is a parent’s group of tensors. "
            "Positive values cost safety.",
            groups,
        )


_BLAME = {
    "gradient": ("By gradient", "First-order loss of safety due to this group being merged in."),
    "leave_one_out": ("By leaving out", "Loss of safety that goes away when this group is left out and measured again."),
}  # fmt: skip


def _blamed(content: Content, ident: str, found: Blame) -> Group:
    pictures, tables = [], []
    columns = [str(group) for group in found.groups]
    for name, (heading, caption) in _BLAME.items():
        values = getattr(found, name)
        if values and columns:
            rows = _rows(content, found.models, values)
            image = heat_map(f"{ident}-{name}", heading, f"{caption} {_ranges(rows)}", rows, columns, around_zero(rows), column_title="group")
            pictures.append(Picture(image, caption, heading))
            tables.append(map_table(f"{ident}-{name}-table", f"{heading}: numbers", "Group", rows, columns))
    return Group(pictures=pictures, tables=tables)
