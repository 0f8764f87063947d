"""What counts as a promise kept, missed or not measured."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cases import cases
from bench.targets import TARGETS, Verdict, verdicts


def row(case: str, **cells: Any) -> dict[str, Any]:
    return {"case": case, "backend": "native", "status": "ok", "elements": 1 << 26, **cells}


def found(rows: list[dict[str, Any]], case: str, what: str, device: str = "cuda") -> Verdict:
    made = verdicts(rows, device, ["native"])
    return next(v for v in made if v.target.case == case and what in v.target.what)


def test_every_target_is_about_a_case() -> None:
    assert {target.case for target in TARGETS} <= {case.label for case in cases()}


@pytest.mark.parametrize(("share", "met"), [(0.9, True), (0.8999, False), ("0.95", True)])
def test_a_share(share: Any, met: bool) -> None:
    verdict = found([row("weighted_sum[3xbf16]", share=share)], "weighted_sum[3xbf16]", "share")
    assert verdict.met is met
    assert ("met" if met else "MISSED") in verdict.text()


@pytest.mark.parametrize(("share", "met"), [(0.5, True), (0.4, False)])
def test_ties_against_reading_twice(share: float, met: bool) -> None:
    verdict = found([row("ties_whole[3xbf16]", share=share)], "ties_whole[3xbf16]", "twice")
    assert verdict.value == pytest.approx(1 / share)
    assert verdict.met is met


@pytest.mark.parametrize("case", ["gradient_ties[3xbf16]", "gradient_task_arithmetic[3xbf16]"])
def test_the_backward_pass(case: str) -> None:
    assert found([row(case, share=0.84)], case, "gradient and inputs").met is True
    assert found([row(case, share=0.83)], case, "gradient and inputs").met is False
    assert found([row(case, share=0.6)], case, "triad", "cpu").met is True
    assert found([row(case, share=0.59)], case, "triad", "cpu").met is False


def test_mergekit_is_compared_where_it_was_measured() -> None:
    case = "ties_whole[3xbf16]"
    assert found([row(case, share=0.5, x_mergekit=25)], case, "mergekit").met is True
    assert found([row(case, share=0.5, x_mergekit=24.9)], case, "mergekit").met is False
    missing = found([row(case, share=0.5)], case, "mergekit")
    assert (missing.value, missing.met) == (None, None)
    assert "not measured" in missing.text()


def test_a_batch_against_one_tensor() -> None:
    one, batch = "merge_jobs[3xbf16]", "merge_jobs[3xbf16 in 1000]"
    both = [row(one, call_ms=0.1, elements=1), row(batch, call_ms=0.3, elements=1)]
    verdict = found(both, batch, "one tensor")
    assert verdict.value == pytest.approx(3.0)
    assert found([row(one, call_ms=0.1), row(batch, call_ms=0.31)], batch, "one").met is False
    assert found(both[1:], batch, "one tensor").met is None


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    case = "weighted_sum[3xbf16]"
    small = found([row(case, share=0.99, elements=1 << 20)], case, "share")
    wrong = found([row(case, status="WrongAnswer: differs")], case, "share")
    absent = found([], case, "share")
    assert [v.met for v in (small, wrong, absent)] == [None, None, None]
    assert [v.why for v in (small, wrong, absent)] == [
        "1048576 elements; it takes 67108864", "WrongAnswer: differs", "the case was not run",
    ]  # fmt: skip


def test_another_backend_does_not_count() -> None:
    rows = [row("weighted_sum[3xbf16]", share=0.99) | {"backend": "triton"}]
    made = verdicts(rows, "cuda", ["native", "triton"])
    first = [v for v in made if v.target.case == "weighted_sum[3xbf16]"]
    assert [(v.backend, v.met) for v in first] == [("native", None), ("triton", True)]
