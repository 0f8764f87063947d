"""bench/methods: every case is a recipe that can be read, and the table has means over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.methods.cases import (
    ALIGNED,
    PUBLISHED,
    SKILLED,
    SPOILING,
    Case,
    all_cases,
    chosen,
    models_of,
)
from bench.methods.tables import COLUMNS, table
from mergesafe.demo.sets import Sets
from mergesafe.methods.registry import METHODS, get_method
from mergesafe.recipe.load import load_recipe

NAMES = ("refusals", "sorting", "arithmetic", "harmless")


def _sets(folder: Path) -> Sets:
    data = folder / "data"
    data.mkdir()
    tuned = {name: data / f"tune-{name}.jsonl" for name in NAMES}
    for path in tuned.values():
        path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    return Sets(
        tuned=tuned, unsafe=data / "unsafe.jsonl", harmless=data / "harmless.jsonl", skills={}
    )


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_a_case_is_a_recipe(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(case.recipe(tmp_path, _sets(tmp_path), seed=3))
    recipe = load_recipe(path)
    assert recipe.method.name == case.method
    assert (recipe.tune is not None) == case.tuned


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_a_case_states_what_has_no_default(case: Case) -> None:
    missing = {p.name for p in get_method(case.method).parameters if p.required}
    assert missing <= PUBLISHED.get(case.method, {}).keys()


def test_methods_of_two_models_merge_the_aligned_one_and_the_one_that_spoils_it() -> None:
    assert models_of(METHODS["slerp"]) == (ALIGNED, (SPOILING,))
    assert models_of(METHODS["nearswap"]) == (ALIGNED, (SPOILING,))
    assert models_of(METHODS["nuslerp"]) == ("", (ALIGNED, SPOILING))
    base, models = models_of(METHODS["ties"])
    assert (base, len(models)) == ("./base", 3)
    assert models_of(METHODS["linear"]) == ("", models)


def test_calibration_is_about_the_models_that_the_method_asks_about() -> None:
    def made(method: str) -> list[tuple[str, str, str, str]]:
        return [(c.kind, c.about, c.data, c.out) for c in Case(method).calibrations]

    assert made("regmean")[1] == ("gram", SKILLED, "sorting", "calibration/gram-sorting-on-sorting")
    assert made("safe_delta") == [
        ("gram", ALIGNED, "refusals", "calibration/gram-aligned-on-refusals")
    ]
    assert made("led")[:2] == [
        ("score", ALIGNED, "refusals", "calibration/score-aligned-on-refusals"),
        ("score", "./base", "refusals", "calibration/score-base-on-refusals"),
    ]


def test_cases_are_chosen_by_pattern() -> None:
    names = [case.name for case in chosen(all_cases(), ["ties/*", "karcher/*"])]
    assert names == ["karcher/untuned", "ties/untuned", "ties/gradient"]


def _row(case: str, seed: int, **figures: Any) -> dict[str, Any]:
    names = {name for column in COLUMNS.values() for name in column}
    return {"case": case, "seed": seed, "merge_s": "", "merge_MiB": "", **dict.fromkeys(names, 0.5),
            **figures}  # fmt: skip


def test_the_table_has_means_over_seeds_and_the_least_cost() -> None:
    rows = [
        _row("parent/base", 0),
        _row("ties/untuned", 0, refusal_rate=0.2, merge_s=3.0, merge_MiB=200),
        _row("ties/untuned", 1, refusal_rate=0.4, merge_s=2.0, merge_MiB=300,
             **{"domain.sorting.nll": 0.1, "domain.arithmetic.nll": 0.3}),
    ]  # fmt: skip
    lines = table(rows)
    half = "0.50 | 0.50 | 0.50 | 0.50 | 0.50 | 0.50"
    assert lines[2] == f"| parent/base | 1 | {half} |  |  |"
    assert lines[3].startswith("| ties/untuned | 2 | 0.30 ± 0.14 | 0.50 ± 0.00 |")
    assert lines[3].endswith("| 0.35 ± 0.21 | 2 | 200 |")
