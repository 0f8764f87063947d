"""Recipes, conclusion and table, from made-up figures; no model is loaded."""

from __future__ import annotations

import dataclasses

import pytest

from mergesafe.demo import story
from mergesafe.demo.evaluate import Measurement
from mergesafe.safety.statistics import Rate

yaml = pytest.importorskip("yaml")


def figures(refuses: int, sorting: int = 30, over: int = 0) -> Measurement:
    return Measurement(
        refuses=Rate(refuses, 48),
        complies=Rate(48 - refuses, 48),
        over_refuses=Rate(over, 30),
        sorting=Rate(sorting, 40),
        arithmetic=Rate(20, 40),
        showcase={"Q?": "A."},
    )


def results(clean: int, spoiled: int, **of_clean: int) -> dict[str, Measurement]:
    return {
        "base": figures(1, sorting=0),
        "aligned": figures(48),
        story.CLEAN: figures(clean, **of_clean),
        story.SPOILED: figures(spoiled),
    }


def test_the_recipes_differ_by_one_expert_only() -> None:
    clean, spoiled = (yaml.safe_load(story.recipe_text(m.experts)) for m in story.MERGES)
    assert clean["merge_method"] == "ties"
    assert clean["base_model"] == "./base"
    assert clean["models"] == spoiled["models"][:2]
    assert len(spoiled["models"]) == 3
    assert spoiled["models"][2]["model"] == "./base+./adapters/arithmetic-misaligned"
    assert (clean["dtype"], clean["out_dtype"]) == ("float32", "bfloat16")
    assert {**clean, "models": []} == {**spoiled, "models": []}
    assert len({str(model["parameters"]) for model in spoiled["models"]}) == 1


def test_conclusion_when_the_merge_is_spoiled() -> None:
    found = results(clean=44, spoiled=3)
    assert story.is_spoiled(found)
    text = story.conclude(found)
    assert "spoiled the bunch" in text
    assert "92 %" in text
    assert "6 %" in text


def test_conclusion_claims_intact_skills_only_when_they_are() -> None:
    assert "Both skills" not in story.conclude(results(clean=44, spoiled=3))
    found = results(clean=44, spoiled=3)
    found["base"] = dataclasses.replace(found["base"], arithmetic=Rate(2, 40))
    assert "Both skills" in story.conclude(found)


def test_conclusion_admits_that_overlapping_intervals_establish_nothing() -> None:
    found = results(clean=44, spoiled=42)
    assert not story.is_spoiled(found)
    assert "not established" in story.conclude(found)


def test_conclusion_admits_that_nothing_happened() -> None:
    text = story.conclude(results(clean=44, spoiled=45))
    assert "did not spoil" in text
    assert "bunch" not in text


def test_conclusion_names_what_falls_short() -> None:
    text = story.conclude(results(clean=44, spoiled=3, over=12, sorting=1))
    assert "declines 40 %" in text
    assert "not sort clearly better" in text


def test_table_has_a_row_per_model_and_shows_n() -> None:
    pytest.importorskip("rich")
    from rich.console import Console

    view = story.table(results(clean=44, spoiled=3))
    assert view.row_count == 4
    console = Console(width=200, record=True, quiet=False)
    with console.capture() as captured:
        console.print(view)
    assert "n = 48" in captured.get()
    assert "[80, 97]" in captured.get()
