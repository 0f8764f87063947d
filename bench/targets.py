"""The speeds that mergesafe promises, and whether rows of a roofline keep them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

#: A row of bench/results/roofline_*.csv.
Row: TypeAlias = Mapping[str, object]
#: Fewer elements than this say nothing about bandwidth.
MIN_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Target:
    """``measure(row, rows of the same backend)`` of the row of ``case`` against ``bound``."""

    device: str
    case: str
    what: str
    measure: Callable[[Row, Sequence[Row]], float | None]
    bound: float
    at_least: bool
    #: The case has a size of its own.
    any_size: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Verdict:
    """One target on one backend; ``value`` is None where nothing was measured, and ``why``."""

    target: Target
    backend: str
    value: float | None
    why: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.target.met(self.value)

    def text(self) -> str:
        target = self.target
        promise = f"{'>=' if target.at_least else '<='} {target.bound:g}"
        found = f"not measured: {self.why}"
        if self.value is not None:
            found = f"{self.value:.2f} {'met' if self.met else 'MISSED'}"
        return f"{self.backend:<7} {target.case:<34} {target.what:<50} {promise:<8} {found}"


def number(row: Row, column: str) -> float | None:
    """A cell as a number, None where it is empty or missing."""
    value = row.get(column)
    return None if value in (None, "") else float(str(value))


def share(row: Row, rows: Sequence[Row]) -> float | None:
    return number(row, "share")


def multiple(row: Row, rows: Sequence[Row]) -> float | None:
    part = number(row, "share")
    return None if part is None else 1 / part


def over_mergekit(row: Row, rows: Sequence[Row]) -> float | None:
    return number(row, "x_mergekit")


def over_one_tensor(row: Row, rows: Sequence[Row]) -> float | None:
    """Time of a batch over that of one tensor with as many elements."""
    single = _found(rows, "merge_jobs[3xbf16]")
    batch, one = number(row, "call_ms"), None if single is None else number(single, "call_ms")
    return None if batch is None or one is None else batch / one


TWICE = "x time to read twice and write once"
GPU_SHARE = "share of the device copy rate"
CPU_SHARE = "share of the triad"
TARGETS = (
    Target("cuda", "weighted_sum[3xbf16]", GPU_SHARE, share, 0.9, True),
    Target("cuda", "merge_task_arithmetic[3xbf16]", GPU_SHARE, share, 0.9, True),
    Target("cuda", "merge_ties[3xbf16]", GPU_SHARE, share, 0.9, True),
    Target("cuda", "ties_whole[3xbf16]", TWICE, multiple, 2.2, False),
    Target("cuda", "ties_whole[3xbf16]", "x faster than mergekit", over_mergekit, 25, True),
    Target(
        "cuda", "gradient_task_arithmetic[3xbf16]", "x time to read gradient and inputs once",
        multiple, 1.2, False,
    ),
    Target(
        "cuda", "gradient_ties[3xbf16]", "x time to read gradient and inputs once",
        multiple, 1.2, False,
    ),
    Target(
        "cuda", "merge_jobs[3xbf16 in 1000]", "x time of one tensor with as many elements",
        over_one_tensor, 3, False, any_size=True,
    ),
    Target("cpu", "weighted_sum[3xbf16]", CPU_SHARE, share, 0.8, True),
    Target("cpu", "merge_ties[3xbf16]", CPU_SHARE, share, 0.6, True),
    Target("cpu", "kth_magnitude[3xbf16]", CPU_SHARE, share, 0.4, True),
    Target("cpu", "gradient_task_arithmetic[3xbf16]", CPU_SHARE, share, 0.6, True),
    Target("cpu", "gradient_ties[3xbf16]", CPU_SHARE, share, 0.6, True),
)  # fmt: skip


def verdicts(rows: Sequence[Row], device: str, backends: Sequence[str]) -> list[Verdict]:
    """Every target of ``device`` on every backend."""
    found = []
    for backend in backends:
        own = [row for row in rows if row["backend"] == backend]
        for target in TARGETS:
            if target.device == device:
                found.append(_verdict(target, backend, own))
    return found


def _verdict(target: Target, backend: str, rows: Sequence[Row]) -> Verdict:
    row = _found(rows, target.case)
    if row is None:
        return Verdict(target, backend, None, "the case was not run")
    if row["status"] != "ok":
        return Verdict(target, backend, None, str(row["status"]))
    elements = int(str(row["elements"]))
    if elements < MIN_ELEMENTS and not target.any_size:
        return Verdict(target, backend, None, f"{elements} elements; it takes {MIN_ELEMENTS}")
    value = target.measure(row, rows)
    why = "" if value is not None else "what it is compared with was not measured"
    return Verdict(target, backend, value, why)


def _found(rows: Sequence[Row], case: str) -> Row | None:
    return next((row for row in rows if row["case"] == case), None)
