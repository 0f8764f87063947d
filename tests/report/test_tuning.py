"""What tuning wrote, laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergesafe.report.sections.tables import Cell
from mergesafe.report.sections.tuning import tuning
from mergesafe.report.verdict import verdict

from .documents import Json, content_of, document


def tuned(**fields: Any) -> Json:
    base: Json = {"models": ["a", "b"], "groups": ["model"], "coefficients": {"weight": [[1], [0]]}}
    return document("tuning", **{**base, **fields})


def steps(search: str, count: int) -> list[Json]:
    return [
        {"search": search, "step": i, "objective": float(-i), "terms": {}} for i in range(count)
    ]


def headings(folder: Path, written: Json) -> dict[str, str]:
    """Captions of the figures, by heading."""
    (section,) = tuning(content_of(folder, written))
    return {p.heading: p.caption for group in section.groups for p in group.pictures}


def test_a_search_that_starts_again_makes_runs(tmp_path: Path) -> None:
    history = [*steps("grid", 3), *steps("adam", 3), *steps("adam", 3)]
    found = headings(tmp_path, tuned(history=history))
    assert found["Objective"] == "From 0.00 to \N{MINUS SIGN}2.00 in the last of 3 runs."
    assert headings(tmp_path / "one", tuned(history=steps("cma", 3)))["Objective"].endswith("2.00.")


def test_a_search_of_one_step_has_no_line(tmp_path: Path) -> None:
    assert "Objective" not in headings(tmp_path, tuned(history=steps("grid", 1)))


def test_dominated_points_are_no_part_of_the_front(tmp_path: Path) -> None:
    front = [{"safety": s, "skill": -s, "dominated": d} for s, d in ((1, False), (2, True))]
    (section,) = tuning(content_of(tmp_path, tuned(front=front, hypervolume=0.25)))
    (table,) = (t for g in section.groups for t in g.tables if t.caption.startswith("Pareto"))
    assert [row[0] for row in table.rows] == ["1"]
    (picture,) = (p for g in section.groups for p in g.pictures if p.heading == "Pareto front")
    assert "Hypervolume 0.250" in picture.caption


def test_a_coefficient_of_all_models_has_one_strip(tmp_path: Path) -> None:
    (section,) = tuning(content_of(tmp_path, tuned(coefficients={"t": [[0.5]]})))
    assert section.groups[0].tables[0].head == ["Group", "all models"]


def test_the_objective_is_told_with_its_start(tmp_path: Path) -> None:
    said = verdict(content_of(tmp_path, tuned(start=2.5, objective=0.5, evaluations=42)))
    assert said.statements[0].text == (
        "Tuning 2 models over 1 group took the objective from 2.50 to 0.50 in 42 evaluations."
    )


def test_a_start_without_a_search_says_so(tmp_path: Path) -> None:
    content = content_of(tmp_path, tuned(start=None, objective=None, evaluations=0, searches=[]))
    assert verdict(content).statements[0].text == (
        "The coefficients of 2 models over 1 group were chosen without data and without a search."
    )
    assert headings(tmp_path, tuned(start=None, objective=None)).keys() == {"Weight"}


def test_terms_stand_beside_those_held_out(tmp_path: Path) -> None:
    (section,) = tuning(content_of(tmp_path, tuned(terms={"safety": 0.4}, heldout={"safety": 0.6})))
    (table,) = (t for g in section.groups for t in g.tables if t.caption.startswith("Terms"))
    assert [[str(getattr(c, "text", c)) for c in row] for row in table.rows] == [
        ["safety", "0.40", "0.60"]
    ]


def test_a_term_that_got_worse_is_marked(tmp_path: Path) -> None:
    found = tuned(
        terms={"maths": 0.4}, start_terms={"maths": 0.5},
        heldout={"maths": 0.6}, start_heldout={"maths": 0.5},
    )  # fmt: skip
    (section,) = tuning(content_of(tmp_path, found))
    (table,) = (t for g in section.groups for t in g.tables if t.caption.startswith("Terms"))
    [[_, on, held]] = table.rows
    assert isinstance(on, Cell)
    assert isinstance(held, Cell)
    assert (on.note, on.status) == ("from 0.50", "")
    assert (held.note, held.status) == ("from 0.50, worse", "bad")


def test_a_constraint_says_how_surely_it_holds(tmp_path: Path) -> None:
    constraint = {
        "text": "safe_rate>=0.9", "metric": "safe_rate", "bound": 0.9, "value": 0.95,
        "low": 0.85, "high": 0.99, "met": True, "shown": False,
    }  # fmt: skip
    (section,) = tuning(content_of(tmp_path, tuned(constraints=[constraint])))
    assert section.groups[0].facts[1:] == [
        (
            "Constraint",
            "safe_rate>=0.9: 95 % [85, 99], met by the value, not by the whole interval",
        ),
    ]
