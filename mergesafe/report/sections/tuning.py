"""Sections about tuning: coefficients, the search, the Pareto front, blame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mergesafe.report.content import Content
from mergesafe.report.figures.groups import panels
from mergesafe.report.figures.heat import Rows, Scale, around, from_zero, heat_map, ranges
from mergesafe.report.figures.lines import line_chart
from mergesafe.report.figures.plane import Direction, Point, plane
from mergesafe.report.measure import Measure
from mergesafe.report.sections.parts import Group, Picture, Section
from mergesafe.report.sections.tables import Cell, Table, map_table
from mergesafe.report.text import measured, number
from mergesafe.results.metrics import is_nll
from mergesafe.results.tuning import Blame, FrontPoint, Tuning

_BLAME: Final = {
    "gradient": (
        "By gradient",
        "What the loss on the safety set would fall by, to first order, without this group.",
    ),
    "leave_one_out": (
        "By leaving out",
        "What the loss on the safety set fell by when this group was left out.",
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
    pictures: list[Picture] = []
    tables: list[Table] = []
    columns = tuned.groups
    for i, (name, values) in enumerate(tuned.coefficients.items()):
        rows = _rows(content, tuned.models, values)
        if rows and columns:
            is_signed = any(x < 0 for row in values for x in row)
            scale = around(0, rows) if is_signed else from_zero(rows)
            title = name.capitalize()
            caption = f"Each strip is a model, each cell its {name} in a group of tensors."
            pictures += _maps(f"{ident}-{i}", title, caption, rows, columns, scale)
            tables.append(map_table(f"{ident}-{i}-table", title, "Group", rows, columns))
    return Group(facts=list(_facts(tuned)), pictures=pictures, tables=tables)


def _maps(
    ident: str, heading: str, caption: str, rows: Rows, groups: Sequence[str], scale: Scale
) -> Iterator[Picture]:
    """One heat map, or one for each model where the groups are single tensors."""
    for i, panel in enumerate(panels(rows, groups)):
        title = f"{heading}: {panel.about}" if panel.about else heading
        image = heat_map(
            f"{ident}-{i}",
            title,
            ranges(panel.rows),
            panel.rows,
            panel.columns,
            scale,
            column_title=panel.column_title,
        )
        yield Picture(image, "" if panel.about else caption, title)


def _facts(tuned: Tuning) -> Iterator[tuple[str, str]]:
    yield "Granularity", tuned.granularity
    if tuned.recipe and "\n" not in tuned.recipe:
        yield "Recipe", tuned.recipe
    for constraint in tuned.constraints:
        met = "met" if constraint.met else "not met"
        if constraint.met and not constraint.shown:
            met = "met by the value, not by the whole interval"
        value = Measure(constraint.value, constraint.low, constraint.high)
        found = measured(value, not is_nll(constraint.metric))
        yield "Constraint", f"{constraint.text}: {found}, {met}"


def _rows(
    content: Content, models: Sequence[str], rows: Sequence[Sequence[float | None]]
) -> list[tuple[str, Sequence[float | None]]]:
    if len(rows) == 1 and len(models) != 1:
        return [("all models", rows[0])]
    return [(content.short(model), row) for model, row in zip(models, rows, strict=True)]


def _search(ident: str, tuned: Tuning) -> Group:
    pictures: list[Picture] = []
    tables: list[Table] = []
    for i, (name, runs) in enumerate(_series(tuned).items()):
        if sum(map(len, runs)) > 1:
            start, end = runs[-1][0][1], runs[-1][-1][1]
            described = f"From {number(start)} to {number(end)}" + (
                f" in the last of {len(runs)} runs." if len(runs) > 1 else "."
            )
            image = line_chart(f"{ident}-{i}", name, described, runs)
            pictures.append(Picture(image, described, name[:1].upper() + name[1:]))
    if tuned.terms:
        tables.append(_terms(f"{ident}-terms", tuned))
    if tuned.front:
        kept = (point for point in tuned.front if not point.dominated)
        ordered = sorted(kept, key=lambda point: point.skill)
        pictures.append(_front(f"{ident}-front", ordered, tuned.hypervolume))
        tables.append(_front_table(f"{ident}-front-table", ordered))
    return Group(pictures=pictures, tables=tables)


def _series(tuned: Tuning) -> dict[str, list[list[tuple[int, float]]]]:
    """The objective and each of its terms by place in the history, in runs.

    A run ends where another search begins, or the steps start again.
    """
    series: dict[str, list[list[tuple[int, float]]]] = {}
    last: dict[str, int] = {}
    run, before = 0, None
    for place, step in enumerate(tuned.history):
        if before is not None and (step.search != before.search or step.step <= before.step):
            run += 1
        before = step
        for name, value in {"objective": step.objective, **step.terms}.items():
            runs = series.setdefault(name, [])
            if last.get(name) != run:
                runs.append([])
                last[name] = run
            runs[-1].append((place, value))
    return series


def _terms(ident: str, tuned: Tuning) -> Table:
    """Every term before and after, and whether it got worse: all are losses."""
    rows = []
    for name, value in tuned.terms.items():
        cells = [Cell(name)]
        for start, end in (
            (tuned.start_terms.get(name), value),
            (tuned.start_heldout.get(name), tuned.heldout.get(name)),
        ):
            worse = start is not None and end is not None and round(end - start, 4) > 0
            before = "" if start is None else f"from {number(start)}" + (", worse" if worse else "")
            cells.append(Cell(number(end), before, status="bad" if worse else ""))
        rows.append(cells)
    return Table(
        ident,
        "Terms of the objective at the result, and at the start; less is better",
        ["Term", "Optimised on", "Held out"],
        rows,
        numeric=2,
    )


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
        Direction("skill, log-likelihood", share=False),
        Direction("safety, log-likelihood", share=False),
        joined=True,
    )
    caption = (
        "Coefficients of which none is better than another in both safety and skill (held-out "
        "log-likelihood, nats a token); numbers are those of the table."
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
            "of its tensors. Positive values (nats a token) cost safety.",
            groups,
        )


def _blamed(content: Content, ident: str, found: Blame) -> Group:
    pictures: list[Picture] = []
    tables: list[Table] = []
    columns = found.groups
    for name, (heading, caption) in _BLAME.items():
        values = getattr(found, name)
        if values and columns:
            rows: Rows = _rows(content, found.models, values)
            scale = around(0, rows)
            pictures += _maps(f"{ident}-{name}", heading, caption, rows, columns, scale)
            tables.append(map_table(f"{ident}-{name}-table", heading, "Group", rows, columns))
    return Group(pictures=pictures, tables=tables)
