"""Tuning runs over the tiny trained experts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny

import mergesafe
from mergesafe.cli.tune import run

from .experts import Experts


def recipe(
    experts: Experts, method: str = "task_arithmetic", *, keys: Any = (), **tune: Any
) -> dict[str, Any]:
    """A tuning recipe over the experts, in float32, few steps."""
    data = [
        {"path": str(experts.folder / f"{name}.jsonl"), "role": role}
        for name, role in (("safety", "safety"), ("skill", "domain"), ("harmless", "harmless"))
    ]
    section = {"data": data, "init": 0.33, "budget": {"steps": 6}, **tune}
    base = None if method == "linear" else experts.base
    listed = [experts.aligned] if method == "slerp" else experts.models
    return tiny.recipe(method, listed, base, dtype="float32", tune=section, **dict(keys))


def tuned(made: Mapping[str, Any] | Path, out: Path, **options: Any) -> Any:
    return mergesafe.tune(made, out, dtype="float32", **options)


def run_command(recipe: Path, out: Path, **options: Any) -> None:
    """The command in this process, which saves the seconds of starting one."""
    run(recipe, out, None, dtype="float32", **{"json": False, "quiet": False, **options})


def unanswered(folder: Path) -> Path:
    path = folder / "asked.jsonl"
    path.write_text("".join(f'{{"question": "how do i like a boat {i}"}}\n' for i in range(4)))
    return path
