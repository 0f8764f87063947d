"""Models that merges through Ray are tested on, and recipes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tensors, digest, llama, recipe, save, save_adapter

import mergesafe
from mergesafe.engine import memory
from mergesafe.engine.cluster import ray_executor as distributed

BIG = "model.layers.0.mlp.big.weight"
#: The big tensor is streamed in tiles.
OPTIONS: dict[str, Any] = {"memory": "500KiB", "threads": 1}


def tensors(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        **llama(seed),
        BIG: torch.randn(310, 301, generator=generator).bfloat16(),
        "ids": torch.arange(2000),
        "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
    }


def in_8_bits(made: Tensors, name: str, seed: int) -> Tensors:
    """``made`` with one tensor in 8 bits, and a scale for each of its blocks of 16 by 8."""
    rows, columns = (
        -(-size // block) for size, block in zip(made[name].shape, (16, 8), strict=True)
    )
    scales = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) + 0.5
    return made | {name: made[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": scales}


def save_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Base, experts and an adapter in ``tmp_path``; budget and parts may be tiny."""
    for seed, name in enumerate(("base", "a", "b")):
        save(tmp_path / name, tensors(seed))
    save_adapter(tmp_path / "adapter", tensors(0), 1)
    monkeypatch.setattr(memory, "MINIMUM_BUDGET", 1)
    monkeypatch.setattr(distributed, "LEAST_JOB", 2_000)
    monkeypatch.setattr(distributed, "JOBS_PER_SLOT", 30)
    return tmp_path


def a_recipe(models: Path, method: str) -> dict[str, Any]:
    parents = [models / "a", models / "b", f"{models / 'base'}+{models / 'adapter'}"]
    each: dict[str, Any] = {"weight": 0.4}
    if method == "linear":
        return recipe(method, parents, each=each)
    return recipe(method, parents, models / "base", each={**each, "density": 0.5})


def local(models: Path, method: str, **options: Any) -> str:
    out = models / f"local-{method}"
    mergesafe.merge(a_recipe(models, method), out, **{**OPTIONS, **options})
    return digest(out)
