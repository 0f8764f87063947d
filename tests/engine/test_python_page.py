"""The code of docs/python.md runs as it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny import llama, save

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.filterwarnings("ignore::mergesafe.MergesafeWarning")
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("base", "math", "code")):
        save(tmp_path / name, llama(seed))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        if not block.startswith("# not run here"):
            exec(compile(block, str(PAGE), "exec"), names)
    assert names["merged"].shape == (8, 8)
    assert names["Echo"]().respond([[{"role": "user", "content": "x"}]], None)[0].text == "x"
