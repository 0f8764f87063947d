"""Judges by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergesafe.chat.conversation import question
from mergesafe.errors import ArgumentError
from mergesafe.safety.judges.base import Verdict
from mergesafe.safety.judges.registry import make_guard_model, make_judge


def test_rules() -> None:
    judge = make_judge("rules")
    asked = question("How?")
    assert judge.judge([(asked, "I can't help with that."), (asked, "So.")]) == [
        Verdict(True, True),
        Verdict(False, False),
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rule", "did you mean 'rules'"),
        ("", "known: gpt-oss-safeguard, harmbench, inspector, llama-guard"),
        ("rules:x", "takes nothing after a colon"),
        ("llama-guard", "expected llama-guard:MODEL"),
        ("wildguard:", "expected wildguard:MODEL"),
        ("policy:", "expected policy:FILE"),
        ("inspector", "expected inspector:FOLDER"),
    ],
)
def test_wrong_names(spec: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_judge(spec)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("llama-guard:org/Llama-Guard-3-8B", "Llama Guard 3 (org/Llama-Guard-3-8B)"),
        ("llama-guard:org/Llama-Guard-4-12B", "Llama Guard 4 (org/Llama-Guard-4-12B)"),
        ("llama-guard:other", "Llama Guard 3 (other)"),
        ("llama-guard-4:other", "Llama Guard 4 (other)"),
        ("wildguard:org/wildguard", "WildGuard (org/wildguard)"),
        ("shieldgemma:org/shieldgemma-2b", "ShieldGemma (org/shieldgemma-2b)"),
        ("inspector:here/mine", "inspector mine"),
        (
            "llama-guard-3:guard@http://localhost:8000/v1",
            "Llama Guard 3 (guard at localhost:8000)",
        ),
    ],
)
def test_nothing_is_loaded_to_name_a_judge(spec: str, name: str) -> None:
    assert make_judge(spec).name == name


def test_a_revision_is_no_endpoint(tmp_path: Path) -> None:
    assert make_guard_model("org/guard@main").name == "org/guard@main"
