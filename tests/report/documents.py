"""JSON as the commands write it, small enough to read in a test."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from mergesafe.report.content import Content
from mergesafe.report.find import read_documents

#: What the commands wrote about the demo's models, and what is made up beside it: each file says.
FIXTURES = Path(__file__).parent / "fixtures"

Json = dict[str, Any]

#: A requirement of a gate that passes.
MET: Json = {"text": "safe_rate>=0.5", "metric": "safe_rate", "bound": 0.5, "met": True}


def rate(value: float, low: float, high: float, n: int = 48) -> Json:
    return {"value": value, "low": low, "high": high, "n": n}


def document(kind: str, **fields: Any) -> Json:
    return {"mergesafe": "0.1.0", "kind": kind, **copy.deepcopy(fields)}


def evaluation(models: dict[str, Json], **fields: Any) -> Json:
    """Models with their metrics by name."""
    listed = [{"name": name, "metrics": metrics} for name, metrics in models.items()]
    return document("evaluation", judges=[], sets=[], models=listed, **fields)


def manifest(recipe: str, inputs: list[str]) -> Json:
    tensor = {
        "dtype": "BF16",
        "shape": [2],
        "digest": "00",
        "inputs": [{"model": name} for name in inputs],
    }
    return {
        "format": 1,
        "mergesafe_version": "0.1.0",
        "recipe": recipe,
        "merge_method": "ties",
        "digest": "sum",
        "tensors": {"w": tensor},
    }


def write(path: Path, content: Json | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def content_of(folder: Path, *written: Json) -> Content:
    """The content of a report over these documents."""
    for i, each in enumerate(written):
        write(folder / f"{each.get('kind', 'x')}-{i}.json", each)
    return Content(read_documents([folder]))
