"""What was measured of the shipped judges before, and how an evaluation tells it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import mergesafe as ms
from mergesafe.cli.evaluate import remarks
from mergesafe.safety.judges import measured
from mergesafe.safety.judges.deflection import THRESHOLD
from mergesafe.safety.judges.rules import RefusalRules
from mergesafe.safety.refusal import RULES_VERSION

from .chat_models import Scripted


def test_the_figures_are_of_the_judges_as_they_are() -> None:
    """Who changes a judge measures it again: ``python -m bench.judges --measured``."""
    found = measured._measured()
    assert {each.version.partition(",")[0] for each in found} == {RULES_VERSION}
    deflection = [each for each in found if "deflection" in each.version]
    assert deflection
    assert all(f"cosine < {THRESHOLD:g}," in each.version for each in deflection)
    assert len({(each.version, each.about, each.labels) for each in found}) == len(found)
    refused = next(each for each in deflection if each.about == "refused")
    right = refused.hits + refused.rejections
    assert right / (refused.positive + refused.negative) >= 0.9


def test_an_evaluation_tells_them(tmp_path: Path) -> None:
    (tmp_path / "unsafe.txt").write_text("one?\n")
    found = ms.evaluate(Scripted("a", lambda asked: "No."), unsafe=tmp_path / "unsafe.txt")
    errors = found.judge_errors
    assert [each.about for each in errors] == ["refused", "safe"]
    assert errors[0].sensitivity.n + errors[0].specificity.n == 105
    assert errors[0].sensitivity.low < errors[0].sensitivity.value < errors[0].sensitivity.high
    assert any("refusal.csv" in line and "sensitivity" in line for line in remarks(found))


def test_another_version_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    known = measured._measured()
    monkeypatch.setattr(
        measured, "_measured", lambda: tuple(replace(each, version="0") for each in known)
    )
    assert list(measured.known_errors([RefusalRules()], 0.95)) == []
