"""Recipes of several documents as their users write them, of matrix.py's models.

mergekit's answers are those of `mergekit-multi`: every intermediate is written and named by its
folder. Random masks leave out nothing here (density 1), since those of mergekit are others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .matrix import ADAPTER
from .peer import Mergekit

Document = dict[str, Any]


def _doc(
    method: str, *models: str, base: str | None = None, name: str = "", **keys: Any
) -> Document:
    """``keys``: parameters of the whole merge; a tuple holds those of each model instead."""
    shared = {key: value for key, value in keys.items() if not isinstance(value, tuple)}
    own = [{k: v[i] for k, v in keys.items() if isinstance(v, tuple)} for i in range(len(models))]
    return {
        **({"name": name} if name else {}), **({"base_model": base} if base else {}),
        "merge_method": method, "parameters": shared, "dtype": "float32",
        "models": [{"model": m, "parameters": p} for m, p in zip(models, own, strict=True)],
    }  # fmt: skip


def _slice(model: str, first: int, end: int) -> dict[str, Any]:
    return {"sources": [{"model": model, "layer_range": [first, end]}]}


#: The last document is the output.
SEVERAL: dict[str, list[Document]] = {
    "TIES of DARE": [
        _doc("dare_ties", "one", "two", base="base", name="m_a", weight=(0.6, 0.4), density=1.0),
        _doc("dare_linear", "two", "three", base="base", name="m_b", weight=(0.5, 0.7), density=1),
        _doc("ties", "m_a", "m_b", base="base", weight=(1.0, [0.2, 0.8]), density=0.6),
    ],
    "SLERP of a merge and a LoRA": [
        _doc("ties", "one", "two", base="base", name="m_a", weight=0.5, density=(0.4, 0.7)),
        _doc("slerp", "m_a", f"three+{ADAPTER}", base="m_a", t=[0.1, 0.9]),
    ],
    "a LoRA on a merge": [
        _doc("linear", "one", "two", name="m_a", weight=(0.7, 0.3)),
        _doc("task_arithmetic", f"m_a+{ADAPTER}", "three", base="base", weight=(0.8, 0.5)),
    ],
    "three stages": [
        _doc("breadcrumbs", "one", "two", base="base", name="m_a", weight=0.6, density=0.8,
             gamma=0.05),
        _doc("model_stock", "m_a", "two", "three", base="base", name="m_b"),
        _doc("nuslerp", "m_a", "m_b", base="base", weight=(0.4, 0.6)),
    ],
    "slices of merges": [
        _doc("slerp", "one", "two", base="one", name="m_a", t=0.3),
        {"merge_method": "passthrough", "dtype": "float32",
         "slices": [_slice("m_a", 0, 2), _slice("three", 1, 3)]},
    ],
}  # fmt: skip


def placed(documents: list[Document], folder: Path) -> list[Document]:
    """With the models that lie in ``folder``."""
    text = json.dumps(documents)
    for name in ("base", "one", "two", "three"):
        text = text.replace(f'"{name}"', f'"{folder / name}"')
        text = text.replace(f'"{name}+{ADAPTER}"', f'"{folder / name}+{folder / ADAPTER}"')
    found: list[Document] = json.loads(text.replace(f"+{ADAPTER}", f"+{folder / ADAPTER}"))
    return found


def merged_by_mergekit(documents: list[Document], out: Path, mergekit: Mergekit) -> Path:
    """The output's folder; every document is written beside it."""
    text = json.dumps(documents)
    for number in range(len(documents)):
        document = json.loads(text)[number]
        name = document.pop("name", "output")
        error = mergekit.merge(document, out / name)
        assert error is None, f"{name}: {error}"
        text = text.replace(f'"model": "{name}', f'"model": "{out / name}')
        text = text.replace(f'"base_model": "{name}"', f'"base_model": "{out / name}"')
    return out / "output"
