"""Questions that a gate asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..chat_models import write_lines


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "unsafe.txt").write_text("".join(f"unsafe {n}\n" for n in range(80)))
    sums = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(40)]
    write_lines(tmp_path / "sums.jsonl", sums)
    return {"unsafe": tmp_path / "unsafe.txt", "domain": {"sums": tmp_path / "sums.jsonl"}}
