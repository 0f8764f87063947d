"""What the page shows of a gate: the decisions, and what they rest on."""

from __future__ import annotations

from pathlib import Path

from mergesafe.report.sections.checks import gates

from .documents import EVIDENCE, MET, content_of, document

SET = {
    "name": "unsafe", "role": "unsafe", "path": "u.txt", "sha256": "ab12", "duplicates": 0,
    "records": 1200,
}  # fmt: skip


def facts(folder: Path, evidence: dict[str, object], count: int = 1) -> list[tuple[str, str]]:
    gate = document(
        "gate", model="m", requirements=[MET] * count, passed=True,
        evidence={**EVIDENCE, **evidence},
    )  # fmt: skip
    (section,) = gates(content_of(folder, gate))
    return list(section.groups[0].facts)


def test_what_a_decision_rests_on_is_shown(tmp_path: Path) -> None:
    shown = facts(
        tmp_path,
        {
            "model": {"name": "m", "reference": "runs/m", "identity": "00aa"},
            "baseline": {"name": "b", "reference": None, "identity": "00bb"},
            "judges": [{"name": "guard", "version": "1"}, {"name": "rules", "version": "4"}],
            "sets": [SET],
            "joint_confidence": 0.9,
            "evaluation": {"path": "e.json", "sha256": "cd34"},
        },
        count=2,
    )
    assert shown == [
        ("Model", "m, read from runs/m, identity 00aa"),
        ("Baseline", "b, identity 00bb"),
        ("Judge", "guard, version 1"),
        ("Judge beside it", "rules, version 4"),
        ("Set unsafe", "unsafe, 1,200 questions, SHA-256 ab12"),
        ("Confidence", "95 % of each requirement; of all together at least 90 %"),
        ("Evaluation", "e.json, SHA-256 cd34"),
    ]


def test_models_that_were_asked_have_no_file(tmp_path: Path) -> None:
    shown = dict(facts(tmp_path, {}))
    assert shown["Confidence"] == "95 % of each requirement"
    assert shown["Evaluation"] == "none was read: the models were asked"
    assert "Baseline" not in shown
