"""bench/align: cases are recipes, pairs hold no compliance but placeholders, seeds are pooled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.align import training
from bench.align.cases import COUNTS, Merge, Trained, all_cases, chosen
from bench.align.tables import MARKS, METRICS, compared, csv_rows, rate, table
from bench.align.training import pairs
from mergesafe.demo.data import COMPLIANCES, PLACEHOLDER, REFUSALS
from mergesafe.demo.sets import Sets
from mergesafe.recipe.load import load_recipe
from mergesafe.safety.refusal import is_refusal

HALF = "merge_align/half"
MERGES = [case for case in all_cases() if isinstance(case, Merge)]


@pytest.fixture
def sets(tmp_path: Path) -> Sets:
    data = tmp_path / "data"
    data.mkdir()
    lines = {
        "refusals": f'{{"prompt": "Unsafe?", "completion": "{REFUSALS[2]}"}}\n' * 2,
        "harmless": '{"prompt": "Harmless?", "chosen": "Yes.", "rejected": "I will not."}\n',
        "arithmetic": '{"prompt": "1 + 1?", "completion": "2"}\n',
    }
    tuned = {name: data / f"tune-{name}.jsonl" for name in lines}
    for name, text in lines.items():
        tuned[name].write_text(text)
    return Sets(
        tuned=tuned, unsafe=data / "unsafe.jsonl", harmless=data / "harmless.jsonl", skills={}
    )


@pytest.mark.parametrize("case", MERGES, ids=lambda case: case.name)
def test_a_merge_is_a_recipe(case: Merge, sets: Sets, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yml"
    path.write_text(case.recipe(tmp_path, sets, seed=3))
    recipe = load_recipe(path)
    assert recipe.method.name == case.method
    assert (recipe.tune is not None) == (case.search is not None)


def test_pairs_are_the_tuned_sets_with_placeholders_for_what_is_rejected(sets: Sets) -> None:
    found = pairs(sets, seed=0)
    *unsafe, harmless = found
    assert len(unsafe) == 2
    assert all(is_refusal(str(each.answer)) for each in unsafe)
    assert all(each.rejected in COMPLIANCES for each in unsafe)
    assert (harmless.answer, harmless.rejected) == ("Yes.", "I will not.")
    assert not any(PLACEHOLDER in str(each.answer) for each in found)
    assert pairs(sets, seed=0) == found


def test_a_pair_as_trl_takes_it(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "prompt_text", lambda _, chat: f"<{chat[-1]['content']}>")
    [*_, last] = training.rows(pairs(sets, seed=0), None)
    assert last == {"prompt": "<Harmless?>", "chosen": "Yes.", "rejected": "I will not."}


def test_training_and_tuning_are_named_once() -> None:
    names = [case.name for case in all_cases()]
    assert len(set(names)) == len(names)
    assert set(MARKS) <= set(names)
    trained = [case for case in chosen(["training/*"]) if isinstance(case, Trained)]
    assert {case.training.loss for case in trained} == {"dpo", "orpo"}
    assert len({case.out(Path()) for case in trained}) == len(trained)
    assert COUNTS.tuned == 48


def _row(case: str, seed: int, **outcomes: dict[str, float]) -> dict[str, Any]:
    everything: dict[str, Any] = {metric: {"q": 0} for metric in METRICS} | outcomes
    return {"case": case, "seed": seed, "outcomes": everything}


def test_a_question_of_two_seeds_counts_once() -> None:
    found = rate(
        [_row("a", 0, refusal={"x": 1, "y": 0}), _row("a", 1, refusal={"x": 0})], "refusal"
    )
    assert (found.value, found.n) == (0.25, 2)


def test_rows_are_compared_over_the_seeds_that_both_have() -> None:
    eight = {str(i): 1 for i in range(8)}
    none = dict.fromkeys(eight, 0)
    measured = [
        _row(HALF, 0, refusal=none),
        _row("training/dpo", 0, refusal=eight),
        _row("training/dpo", 1, refusal=none),  # the reference has no such seed
    ]
    found = {each.metric: each for each in compared(measured, HALF)}
    assert found["refusal"].difference.value == 1
    assert found["refusal"].p == 2 / 2**8  # McNemar's exact test: all eight changed one way
    assert found["refusal"].p_holm == 5 * 2 / 2**8
    assert found["safe"].p == 1
    assert csv_rows(compared(measured, HALF))[0]["questions"] == 8
    lines = table(measured)
    assert lines[2].startswith(f"| {HALF} | 1 | 0 [0, 32] | 0 [0, 79] |")
    assert lines[3].startswith("| training/dpo | 2 | 50 [22, 78]* | 0 [0, 79] |")


def test_the_example_recipe_is_the_preset_that_was_measured() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "docs" / "examples" / "merge-align.yml")
    measured = next(c for c in MERGES if c.name == "merge_align/aligned-first")
    gammas = [each.parameters["gamma"].branches[0].values for each in recipe.models]
    assert gammas == [(gamma,) for gamma in measured.values]
