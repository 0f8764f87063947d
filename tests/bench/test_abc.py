"""The files of the run from a policy to a gate are valid, and its table corrects and chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.abc.files import OBJECTIVES, POLICY, tune_recipe
from bench.abc.rows import best, corrected
from mergesafe.chat.scripted import topics
from mergesafe.recipe.load import load_recipe
from mergesafe.safety.policy import read_policy
from mergesafe.tune.section.read_section import read_section


def test_the_policy_asks_about_topics_that_templates_know() -> None:
    policy = read_policy(POLICY)
    assert {each.topic for each in policy.principles} == set(topics())
    assert policy.refusal is not None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_recipes_are_read(objective: str, tmp_path: Path) -> None:
    file = tmp_path / "tune.yml"
    file.write_text(tune_recipe(tmp_path, tmp_path / "policy.jsonl", objective))
    section = read_section(load_recipe(file))
    assert [each.name for each in section.objective][-1] == objective


def row(model: str, metric: str, value: float, p: float | str = "") -> dict[str, Any]:
    return {"model": model, "precision": "int4", "metric": metric, "value": value, "p": p}


def test_the_table() -> None:
    rows = [
        row("unsafe", "refusal_rate", 0.2), row("a", "refusal_rate", 0.9, 0.01),
        row("a", "over_refusal", 0.6, 0.5), row("b", "refusal_rate", 0.8, 0.02),
        row("b", "over_refusal", 0.1, 0.5),
    ]  # fmt: skip
    assert [each["p_holm"] for each in corrected(rows)] == ["", 0.04, 1.0, 0.06, 1.0]
    assert best(rows, ["a", "b"], "int4") == "b"
