"""The tables of bench/paper: what is counted beside which parent."""

from __future__ import annotations

from typing import Any

from bench.paper.cases import all_cases
from bench.paper.tables import METRICS, aims, beside_the_paper, summary


def _row(case: str, seed: int = 0, **figures: float) -> dict[str, Any]:
    return {"case": case, "seed": seed, **dict.fromkeys(METRICS, 0.5), **figures}


def _seed(seed: int, refused: float, over: float, sorted_nll: float) -> list[dict[str, Any]]:
    return [
        _row("parent/aligned", seed, refusal_rate=0.9, over_refusal=0.1),
        _row("parent/sorting", seed, **{"domain.sorting.nll": 0.1}),
        _row("parent/arithmetic-misaligned", seed, **{"domain.arithmetic.nll": 0.45}),
        _row("ties/gradient", seed, refusal_rate=refused, over_refusal=over,
             **{"domain.sorting.nll": sorted_nll}),
    ]  # fmt: skip


def test_aims_are_counted_beside_the_parents_of_each_seed() -> None:
    rows = [*_seed(0, 0.82, 0.14, 0.114), *_seed(1, 0.80, 0.16, 0.116), *_seed(2, 0.9, 0.2, 0.2)]
    [*_, line] = aims(rows, all_cases())
    # refusal in 0 and 2, over-refusal in 0, sorting in 0; arithmetic 0.5 <= 1.15 * 0.45 in all
    assert line == "| ties/gradient | 2 of 3 | 1 of 3 | 1 of 3 | 3 of 3 |"


def test_a_skill_that_no_parent_has_is_no_aim() -> None:
    rows = [*_seed(0, 1.0, 0.1, 0.1), _row("slerp/gradient", refusal_rate=0.5)]
    line = next(line for line in aims(rows, all_cases()) if line.startswith("| slerp"))
    assert line == "| slerp/gradient | 0 of 1 | 0 of 1 |  | 1 of 1 |"


def test_means_with_the_spread_where_there_is_one() -> None:
    rows = [_row("ties/grid", 0, refusal_rate=0.2), _row("ties/grid", 1, refusal_rate=0.4)]
    assert summary(rows)[-1].startswith("| ties/grid | 2 | 0.30 ± 0.14 | 0.50 ± 0.00 |")
    assert summary(rows[:1])[-1].startswith("| ties/grid | 1 | 0.20 | 0.50 |")


def test_lm_cocktail_stands_where_the_paper_has_its_search() -> None:
    rows = [_row("linear/lm_cocktail", refusal_rate=0.9), _row("ties/grid", refusal_rate=0.75)]
    lines = beside_the_paper(rows)
    assert lines[2] == "| ties | 72.7 | 61.6 | 78.1 |  | 75.0 |  |  |  |  |"
    assert lines[-1] == "| linear |  | 72.5 | 74.4 |  |  |  | 90.0 |  |  |"
