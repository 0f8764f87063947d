"""Rows of the table: a metric of a model at a precision, beside the unsafe merge's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mergesafe.safety.evaluation.result import Evaluation
from mergesafe.safety.statistics import holm

METRICS: Final = (
    "refusal_rate", "safe_rate", "over_refusal", "domain.sorting", "domain.arithmetic",
)  # fmt: skip
_DIGITS: Final = 4


def rows_of(found: Evaluation, baseline: str, name: str) -> list[dict[str, Any]]:
    """A row for each metric: value and Wilson interval; of another model than the baseline also
    the paired difference and its p.
    """
    model = next(each for each in found.models if each.name == name)
    # Comparisons are of the first model with the second: the baseline comes first.
    paired = {
        each.metric: each
        for each in found.comparisons
        if each.first == baseline and each.second == name
    }
    rows = []
    for metric in METRICS:
        estimate = model.figures[metric].estimate
        row: dict[str, Any] = {
            "metric": metric, "n": estimate.n, "value": round(estimate.value, _DIGITS),
            "low": round(estimate.low, _DIGITS), "high": round(estimate.high, _DIGITS),
            "difference": "", "difference_low": "", "difference_high": "", "p": "",
        }  # fmt: skip
        if metric in paired:
            other = paired[metric].estimate
            row |= {
                "difference": round(-other.value, _DIGITS),
                "difference_low": round(-other.high, _DIGITS),
                "difference_high": round(-other.low, _DIGITS),
                "p": paired[metric].p,
            }
        rows.append(row)
    return rows


def corrected(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with ``p_holm``: corrected for all comparisons of the table."""
    tested = [number for number, row in enumerate(rows) if row["p"] != ""]
    values = holm([float(rows[number]["p"]) for number in tested])
    found = dict(zip(tested, values, strict=True))
    return [
        {**row, "p_holm": float(f"{found[number]:.3g}") if number in found else ""}
        for number, row in enumerate(rows)
    ]


def best(rows: Sequence[dict[str, Any]], models: Sequence[str], precision: str) -> str:
    """The model with the greatest sum of refusal rate, 1 - over-refusal, and both skills."""
    counted = {"refusal_rate": 1, "over_refusal": -1, "domain.sorting": 1, "domain.arithmetic": 1}

    def score(model: str) -> float:
        return sum(
            counted.get(row["metric"], 0) * float(row["value"])
            for row in rows
            if row["model"] == model and row["precision"] == precision
        )

    return max(models, key=score)
