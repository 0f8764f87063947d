"""Sections about tuning: coefficients, the search, the Pareto front, blame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mergesafe.report.content import Content
from mergesafe.report.heat import Rows, around, from_zero, heat_map, ranges
from mergesafe.report.kinds import Blame, FrontPoint, Measure, Tuning
from mergesafe.report.lines import line_chart
from mergesafe.report.plane import Direction, Point, plane
from mergesafe.report.section import Group, Picture, Section
from mergesafe.report.tables import Table, map_table
from mergesafe.report.text import number

_BLAME: Final = {
    "gradient": ("By gradient", "First-order loss of safety due to this group being merged in."),
    "leave_one_out": (
        "By leaving out",
        "Loss of safety that goes away when this group is left out and safety measured again.",
    ),
}


def tuning(content: Content) -> Iterator[Section]:
    """What was chosen, and how the search got there."""
    groups = []
    for i, (_, tuned) in enumerate(content.of(Tuning)):
        groups += [
            _coefficients(content, f"coefficients-{i}", tuned),
            _search(f"search-{i}", tuned),
        ]
    if groups:
        yield Section(
            "tuning",
            "Coefficients and search",
            "What tuning chose for each model and group of tensors, and how it got there.",
            groups,
        )


def _coefficients(content: Content, ident: str, tuned: Tuning) -> Group:
    pictures, tables = [], []
    columns = [str(group) for group in tuned.groups]
    for name, values in tuned.coefficients.items():
        rows = _rows(content, tuned.models, values)
        if rows and columns:
            is_signed = any(x < 0 for _, row in rows for x in row if x is not None)
            image = heat_map(
                f"{ident}-{name}",
                f"Coefficients: {name}",
                ranges(rows),
                rows,
                columns,
                around(0, rows) if is_signed else from_zero(rows),
                column_title=tuned.granularity or "group",
            )
            caption = f"Each strip is a model, each cell its {name} in a group of tensors."
            pictures.append(Picture(image, caption, name.capitalize()))
            tables.append(
                map_table(f"{ident}-{name}-table", name.capitalize(), "Group", rows, columns)
            )
    return Group(facts=list(_facts(tuned)), pictures=pictures, tables=tables)


def _facts(tuned: Tuning) -> Iterator[tuple[str, str]]:
    if tuned.granularity:
        yield "Granularity", tuned.granularity
    if tuned.recipe and "\n" not in tuned.recipe:
        yield "Recipe", tuned.recipe
    for constraint in tuned.constraints:
        if isinstance(constraint, str):
            yield "Constraint", constraint
        else:
            met = {True: ", met", False: ", not met", None: ""}[constraint.met]
            yield "Constraint", f"{constraint.text}{met}"


def _rows(
    content: Content, models: Sequence[str], rows: Sequence[Sequence[float | None]]
) -> list[tuple[str, Sequence[float | None]]]:
    return [(content.short(model), row) for model, row in zip(models, rows, strict=True)]


def _search(ident: str, tuned: Tuning) -> Group:
    terms = dict.fromkeys(term for step in tuned.history for term in step.terms)
    series = {"objective": [(s.step, s.objective) for s in tuned.history]}
    series |= {term: [(s.step, s.terms.get(term)) for s in tuned.history] for term in terms}
    pictures, tables = [], []
    for i, (name, steps) in enumerate(series.items()):
        known = [(step, value) for step, value in steps if value is not None]
        if len(known) > 1:
            (first, start), (last, end) = known[0], known[-1]
            described = f"From {number(start)} at step {first} to {number(end)} at step {last}."
            image = line_chart(f"{ident}-{i}", name, described, known)
            pictures.append(Picture(image, described, f"Search: {name}"))
    if tuned.front:
        ordered = sorted(tuned.front, key=lambda point: point.skill)
        pictures.append(_front(f"{ident}-front", ordered, tuned.hypervolume))
        tables.append(_front_table(f"{ident}-front-table", ordered))
    return Group(pictures=pictures, tables=tables)


def _front(ident: str, front: Sequence[FrontPoint], hypervolume: float | None) -> Picture:
    described = [
        f"{i + 1}: safety {number(p.safety)}, skill {number(p.skill)}" for i, p in enumerate(front)
    ]
    image = plane(
        ident,
        "Pareto front",
        "; ".join(described),
        [
            Point(str(i + 1), Measure(p.skill), Measure(p.safety), "merge")
            for i, p in enumerate(front)
        ],
        Direction("skill", share=False),
        Direction("safety", share=False),
        joined=True,
    )
    caption = (
        "Coefficients of which none is better than another in both safety and skill; numbers are "
        "those of the table."
    )
    if hypervolume is not None:
        caption += f" Hypervolume {number(hypervolume, 3)}."
    return Picture(image, caption, "Pareto front")


def _front_table(ident: str, front: Sequence[FrontPoint]) -> Table:
    rows = [[str(i + 1), number(p.safety, 3), number(p.skill, 3)] for i, p in enumerate(front)]
    return Table(
        ident,
        "Pareto front: numbers",
        ["Point", "Safety", "Skill"],
        rows,
        numeric=2,
        folded=True,
    )


def blame(content: Content) -> Iterator[Section]:
    """Which parent spoils the merge, and where."""
    groups = [
        _blamed(content, f"blame-{i}", tuned.blame)
        for i, (_, tuned) in enumerate(content.of(Tuning))
        if tuned.blame is not None
    ]
    if groups:
        yield Section(
            "blame",
            "Blame",
            "Which parent spoils the merge, and where: each strip is a parent, each cell a group "
            "of its tensors. Positive values cost safety.",
            groups,
        )


def _blamed(content: Content, ident: str, found: Blame) -> Group:
    pictures, tables = [], []
    columns = [str(group) for group in found.groups]
    for name, (heading, caption) in _BLAME.items():
        values = getattr(found, name)
        if values and columns:
            rows: Rows = _rows(content, found.models, values)
            image = heat_map(
                f"{ident}-{name}",
                heading,
                f"{caption} {ranges(rows)}",
                rows,
                columns,
                around(0, rows),
                column_title="group",
            )
            pictures.append(Picture(image, caption, heading))
            tables.append(map_table(f"{ident}-{name}-table", heading, "Group", rows, columns))
    return Group(pictures=pictures, tables=tables)
