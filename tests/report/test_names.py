"""Names of models: which mean the same, and how short they may be."""

from __future__ import annotations

from mergesafe.report.names import Names, shortest

RECIPE = "./base+./adapters/aligned"
MANIFEST = "/runs/base+/runs/adapters/aligned"


def test_spellings_of_one_model() -> None:
    names = Names([RECIPE, MANIFEST, "aligned", "/runs/base", "base"])
    assert {names.canonical(name) for name in (RECIPE, MANIFEST, "aligned")} == {MANIFEST}
    assert names.short(RECIPE) == "aligned"
    assert names.canonical("base") == "/runs/base"


def test_a_name_that_fits_two_models_is_neither() -> None:
    names = Names(["/one/base", "/two/base", "base"])
    assert names.canonical("base") == "base"
    assert len({names.canonical(n) for n in ("/one/base", "/two/base", "base")}) == 3
    assert names.short("/one/base") == "one/base"


def test_a_part_of_a_word_is_not_a_part_of_a_path() -> None:
    names = Names(["/runs/misaligned", "aligned"])
    assert names.canonical("aligned") == "aligned"


def test_titles_stay_as_they_are() -> None:
    assert shortest(["a + b", "x/y"]) == {"a + b": "a + b", "x/y": "y"}
    names = Names(["sorting", "aligned + sorting"])
    assert names.canonical("sorting") == "sorting"


def test_awkward_names() -> None:
    for name in ("", "/", "+", "a//b/", "hf://org/name@main", "\u202e"):
        assert Names([name]).short(name) in name or Names([name]).short(name) == name
