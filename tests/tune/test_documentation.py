"""The example of docs/tuning-internals.md runs and does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny

from mergesafe.chat.records import write_records
from tune.models import make_models
from tune.test_objectives import SAFETY, SKILL

PAGE = Path(__file__).parents[2] / "docs" / "tuning-internals.md"


def test_the_example_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, *experts = make_models(tmp_path)
    content = tiny.recipe("task_arithmetic", experts, base, each={"weight": 0.3})
    tiny.write_recipe(tmp_path / "merge.yml", content)
    (tmp_path / "safety.jsonl").write_text(write_records(SAFETY))
    (tmp_path / "skill.jsonl").write_text(write_records(SKILL))
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), names)
    assert names["losses"][-1] < names["losses"][0] - 0.1
    assert len(names["responses"]) == 1
