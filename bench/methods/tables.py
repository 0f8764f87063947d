"""What was found, as a table in Markdown: means over seeds, a line a method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from bench.experiment import Row

#: A column and the figures whose mean it is.
COLUMNS: Final = {
    "refusal": ("refusal_rate",),
    "over-refusal": ("over_refusal",),
    "placeholder": ("placeholder",),
    "sorting": ("domain.sorting",),
    "arithmetic": ("domain.arithmetic",),
    "NLL": ("domain.sorting.nll", "domain.arithmetic.nll"),
}


def table(rows: Sequence[Row]) -> list[str]:
    """Means and standard deviations over the seeds, a line a parent or merge."""
    head = ["model", "seeds", *COLUMNS, "merge s", "MiB"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        figures = [[statistics.mean(row[f] for f in fs) for row in own] for fs in COLUMNS.values()]
        cost = [_cost([row[name] for row in own]) for name in ("merge_s", "merge_MiB")]
        cells = [case, str(len(own)), *map(_mean, figures), *cost]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _cost(values: Sequence[float | str]) -> str:
    """Of the seeds, the least: what else the machine did only adds to it."""
    known = [float(value) for value in values if value != ""]
    return f"{min(known):.3g}" if known else ""
