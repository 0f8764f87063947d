"""The example of the documentation runs as it stands."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from .experts import Experts

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "tune.py"


def test_the_example(
    experts: Experts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(experts.folder, tmp_path / "models")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(folder)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("objective ")
    blame = {line.split()[1]: float(line.split()[0]) for line in printed[2:5]}
    assert max(blame, key=blame.__getitem__) == "misaligned"
    assert (folder / "merged" / "model.safetensors").exists()
    assert json.loads((folder / "run.json").read_text())["kind"] == "tuning"
