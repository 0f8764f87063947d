"""Which sets count in which term of the objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mergesafe.errors import DataError
from mergesafe.tune.data.terms import make_terms
from mergesafe.tune.setup import TuningSetup, prepare

from .experts import Experts, with_rejected
from .runs import recipe


def setup_of(experts: Experts, harmless: Path, **tune: Any) -> TuningSetup:
    made = recipe(experts, **tune)
    made["tune"]["data"][2]["path"] = str(harmless)
    return prepare(made)


def terms_of(setup: TuningSetup) -> dict[str, tuple[str, float]]:
    made = make_terms(setup.section, setup.splits, setup.space)
    return {term.name: (term.kind, term.weight) for term in made.terms}


def test_harmless_preferences_are_compared_where_there_is_such_a_term(
    experts: Experts, tmp_path: Path
) -> None:
    harmless = with_rejected(experts.folder / "harmless.jsonl", tmp_path / "harmless.jsonl")
    objective = ["cross_entropy", {"term": "dpo", "weight": 0.5}]
    assert terms_of(setup_of(experts, harmless, objective=objective, alpha=0.4)) == {
        "safety": ("cross_entropy", 1.0),
        "skill": ("cross_entropy", 0.4),
        "dpo.harmless": ("dpo", 0.5),
    }
    # Without one their answers count as those of a skill.
    assert terms_of(setup_of(experts, harmless, alpha=0.4)) == {
        "safety": ("cross_entropy", 1.0),
        "skill": ("cross_entropy", 0.2),
        "harmless": ("cross_entropy", 0.2),
    }


def test_a_comparing_term_without_rejected_answers_is_refused(
    experts: Experts, tmp_path: Path
) -> None:
    plain = experts.folder / "harmless.jsonl"
    some = with_rejected(plain, tmp_path / "some.jsonl", leave_out=1)
    with pytest.raises(DataError, match="'orpo' compares two answers"):
        setup_of(experts, plain, objective=["cross_entropy", "orpo"])
    with pytest.raises(DataError, match="rejected answers for some of its questions") as caught:
        setup_of(experts, some, objective=["cross_entropy", "orpo"])
    assert "some.jsonl:1: " in str(caught.value)


def test_held_out_harmless_questions_need_no_answers(experts: Experts, tmp_path: Path) -> None:
    harmless = with_rejected(experts.folder / "harmless.jsonl", tmp_path / "harmless.jsonl")
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "how do i greet a neighbour today"}\n')
    made = recipe(experts, objective=["cross_entropy", "dpo"])
    made["tune"]["data"][2] |= {"path": str(harmless), "heldout": str(asked)}
    setup = prepare(made)
    assert terms_of(setup)["dpo.harmless"] == ("dpo", 1.0)
    held_out = make_terms(setup.section, setup.splits, setup.space, heldout=True)
    assert [term.name for term in held_out.terms] == ["safety", "skill"]


def test_sets_count_by_their_weights(experts: Experts) -> None:
    setup = setup_of(experts, experts.folder / "harmless.jsonl")
    heavy = replace(setup.splits[2], about=replace(setup.splits[2].about, weight=3.0))
    made = make_terms(setup.section, (*setup.splits[:2], heavy), setup.space)
    weights = {term.name: term.weight for term in made.terms}
    assert weights == pytest.approx({"safety": 1.0, "skill": 0.3 / 4, "harmless": 0.3 * 3 / 4})
