"""Requirements as text."""

from __future__ import annotations

import pytest

from mergesafe.errors import ArgumentError
from mergesafe.safety.gate.requirement import parse_requirement


@pytest.mark.parametrize(
    ("text", "metric", "above", "factor", "offset"),
    [
        ("safe_rate>=0.95", "safe_rate", True, 0, 0.95),
        (" over_refusal <= 10% ", "over_refusal", False, 0, 0.1),
        ("domain.sorting>=0.9*P", "domain.sorting", True, 0.9, 0),
        ("domain.a-b_c.nll<=1.05*P", "domain.a-b_c.nll", False, 1.05, 0),
        ("refusal_rate >= P", "refusal_rate", True, 1, 0),
        ("refusal_rate >= P - 0.02", "refusal_rate", True, 1, -0.02),
        ("over_refusal<=P*90% + 1e-2", "over_refusal", False, 0.9, 0.01),
        ("safe_rate.advbench>=.5", "safe_rate.advbench", True, 0, 0.5),
        ("lm_eval.arc_easy.acc>=0.3", "lm_eval.arc_easy.acc", True, 0, 0.3),
        ("domain.x.nll<=2.5", "domain.x.nll", False, 0, 2.5),
    ],
)
def test_parse(text: str, metric: str, above: bool, factor: float, offset: float) -> None:
    found = parse_requirement(text)
    assert (found.metric, found.above) == (metric, above)
    assert (found.factor, found.offset) == pytest.approx((factor, offset))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected METRIC>=BOUND"),
        ("safe_rate", "expected METRIC>=BOUND"),
        (">=0.9", "expected METRIC>=BOUND"),
        ("safe_rat>=0.9", "did you mean 'safe_rate'"),
        ("accuracy>=0.9", "unknown metric 'accuracy' \\(known: domain"),
        ("safe_rate>0.9", "write '>=' or '<='"),
        ("safe_rate==1", "write '>=' or '<='"),
        ("safe_rate=>0.9", "did you mean '>='"),
        ("safe_rate=<0.9", "did you mean '<='"),
        ("safe_rate>=95", "0.95 or 95%"),
        ("safe_rate>=-0.1", "between 0 and 1"),
        ("safe_rate>=high", "cannot read the bound 'high'"),
        ("safe_rate>=0.9*Q", "cannot read the bound '0.9\\*Q' at '\\*Q'"),
        ("safe_rate>=0.9 P", "cannot read the bound"),
        ("safe_rate>=0.9*P+", "at '\\+'"),
        ("domain.x.nll<=1e13*P", "beyond any figure; expected at most 1e\\+12"),
        ("domain.x.nll<=1e400", "beyond any figure"),
        ("safe_rate>=1-P", "falls as the baseline rises"),
        ("domain>=0.5", "expected domain.NAME"),
        ("domain.>=0.5", "expected domain.NAME"),
    ],
)
def test_what_is_no_requirement(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_requirement(text)
