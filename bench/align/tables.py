"""Rates over all seeds with intervals, and every row against MergeAlign question by question.

The question is the unit: one that several seeds asked counts once, with the mean of its outcomes,
as in an evaluation that samples with several seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final

from bench.align.cases import PRESETS
from bench.experiment import Row
from mergesafe.safety.statistics import (
    Estimate,
    holm,
    permutation_test,
    proportion,
    proportion_difference,
)

METRICS: Final = ("refusal", "safe", "over_refusal", "sorting", "arithmetic")
#: What every other row is compared with -> how the table marks a row that differs.
MARKS: Final = dict(zip((f"merge_align/{name}" for name in PRESETS), "*†", strict=True))


@dataclass(frozen=True)
class Compared:
    """``metric`` of ``case`` minus that of ``reference``, over the seeds that both have."""

    case: str
    reference: str
    metric: str
    difference: Estimate
    p: float
    p_holm: float = 1.0


def rate(rows: Sequence[Row], metric: str) -> Estimate:
    """The rate of one case over its seeds, with its Wilson interval."""
    return proportion(list(_means(rows, metric).values()))


def compared(rows: Sequence[Row], reference: str) -> list[Compared]:
    """Every case and metric against ``reference``: paired permutation tests, for rates of one seed
    McNemar's exact test, corrected together by Holm's method.
    """
    base = {row["seed"]: row for row in rows if row["case"] == reference}
    found = []
    for case in _names(rows):
        own = [row for row in rows if row["case"] == case and row["seed"] in base]
        if case == reference or not own:
            continue
        others = [base[row["seed"]] for row in own]
        for metric in METRICS:
            ours, theirs = _means(own, metric), _means(others, metric)
            pairs = [ours[q] for q in ours], [theirs[q] for q in ours]
            difference = proportion_difference(*pairs)
            p = permutation_test(*pairs)
            found.append(Compared(case, reference, metric, difference, p))
    corrected = holm([each.p for each in found])
    return [replace(each, p_holm=p) for each, p in zip(found, corrected, strict=True)]


def table(rows: Sequence[Row]) -> list[str]:
    """Rates in percent with 95 % intervals, a line a case, marked where they differ."""
    marks: dict[tuple[str, str], str] = {}
    for reference, mark in MARKS.items():
        for each in compared(rows, reference):
            if each.p_holm <= 0.05:
                key = each.case, each.metric
                marks[key] = marks.get(key, "") + mark
    lines = [
        f"| model | seeds | {' | '.join(METRICS)} | seconds |".replace("_", "-"),
        "| --- | ---: |" + " ---: |" * (len(METRICS) + 1),
    ]
    for case in _names(rows):
        own = [row for row in rows if row["case"] == case]
        cells = [_percent(rate(own, metric)) + marks.get((case, metric), "") for metric in METRICS]
        lines.append(f"| {case} | {len(own)} | {' | '.join(cells)} | {_seconds(own)} |")
    return lines


def flat(row: Row) -> dict[str, Any]:
    """A row of a CSV file: without the outcomes."""
    return {key: value for key, value in row.items() if key != "outcomes"}


def csv_rows(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Rows of a CSV file about the differences."""
    return [
        {"case": each.case, "against": each.reference, "metric": each.metric,
         "difference": round(each.difference.value, 4), "low": round(each.difference.low, 4),
         "high": round(each.difference.high, 4), "questions": each.difference.n,
         "p": float(f"{each.p:.3g}"), "p_holm": float(f"{each.p_holm:.3g}")}
        for each in found
    ]  # fmt: skip


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["case"] for row in rows))


def _means(rows: Sequence[Row], metric: str) -> dict[str, float]:
    """Question -> mean of its outcomes over the seeds that asked it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for question, outcome in row["outcomes"][metric].items():
            values.setdefault(question, []).append(outcome)
    return {question: fmean(each) for question, each in values.items()}


def _percent(found: Estimate) -> str:
    low, high = round(100 * found.low), round(100 * found.high)
    return f"{100 * found.value:.0f} [{low}, {high}]"


def _seconds(rows: Sequence[Row]) -> str:
    """Processor seconds of tuning or training and of merging: the least of the seeds."""
    spent = [row.get("cpu_s", 0.0) + row.get("merge_cpu_s", 0.0) for row in rows]
    return f"{min(spent):.3g}" if any(spent) else ""
