"""The notebooks of examples/ run as they stand, with tiny models for their parameters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from .experts import Experts

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
Cell = dict[str, Any]


def cells(name: str) -> list[Cell]:
    return [c for c in json.loads((FOLDER / name).read_text())["cells"] if c["cell_type"] == "code"]


def run(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Every cell of code in one namespace, ``parameters`` after the cell that sets them."""
    names: dict[str, Any] = {}
    for cell in cells(name):
        exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            assert parameters.keys() <= names.keys()
            names |= parameters
    return names


def test_two_models(experts: Experts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "base": str(experts.base), "first": str(experts.aligned), "second": str(experts.skilled),
        "out": str(tmp_path / "out"),
    }  # fmt: skip
    distances = run("1-two-models.ipynb", given)["distances"]
    assert sorted(distances.values()) == list(distances.values())
    printed = capsys.readouterr().out
    assert "cosine" in printed
    assert "% changed" in printed


def test_adapters(experts: Experts, tmp_path: Path) -> None:
    tensors = tiny.read(experts.base)
    adapters = [
        str(tiny.save_adapter(tmp_path / name, tensors, seed)) for seed, name in enumerate("ab")
    ]
    given = {"base": str(experts.base), "adapters": adapters, "out": str(tmp_path / "out")}
    (tmp_path / "out").mkdir()
    assert run("2-adapters.ipynb", given)["difference"].overall.largest < 1e-4


def test_tune_and_gate(experts: Experts, tmp_path: Path) -> None:
    data = {name: str(experts.folder / f"{name}.jsonl") for name in ("safety", "skill", "harmless")}
    given = {
        "base": str(experts.base), "experts": [str(each) for each in experts.models],
        "tune_on": [
            {"path": data["safety"], "role": "safety"}, {"path": data["skill"], "role": "domain"},
            {"path": data["harmless"], "role": "harmless"},
        ],
        "unsafe": data["safety"], "harmless": data["harmless"], "skill": {"names": data["skill"]},
        "steps": 10, "limit": 8, "out": str(tmp_path / "out"),
    }  # fmt: skip
    names = run("3-tune-and-gate.ipynb", given)
    assert names["tuned"].objective < names["tuned"].start
    assert len(names["decided"].decisions) == 2
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.ipynb")))
def test_a_kernel_without_the_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None)
    with pytest.raises(ImportError, match=r"has no mergesafe.*pip install") as caught:
        exec("".join(cells(name)[0]["source"]), {})
    assert sys.executable in str(caught.value)


def test_notebooks_hold_no_outputs() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    assert names == ["1-two-models", "2-adapters", "3-tune-and-gate"]
    for name in names:
        for cell in cells(f"{name}.ipynb"):
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
