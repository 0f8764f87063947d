"""Scores of large tensors are found a piece at a time: the same merge, in little memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import read, recipe, same_bits, save

import mergesafe as ms
from mergesafe.engine.plan import tiling
from mergesafe.engine.run import answers, workers

NAME = "model.layers.0.mlp.down_proj.weight"
RECIPES = {"arcee_fusion": 1, "pcb": 3}
#: Rows that end with blocks, rows that do not, and rows that are longer than a sampled run.
SHAPES = [(160, 1024), (700, 257), (40, 4096)]


@pytest.fixture(params=SHAPES, ids=str)
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(request.param, generator=generator) * 0.02
    paths = []
    for i in range(4):
        delta = torch.randn(request.param, generator=generator) * 0.001 * (i > 0)
        paths.append(save(tmp_path / str(i), {NAME: (base + delta).bfloat16()}))
    return paths


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of this size are taken for large ones."""
    sizes = replace(tiling.CPU_SIZES, kept=0, write=1 << 15)
    monkeypatch.setattr(workers, "CPU_SIZES", sizes)
    monkeypatch.setattr(tiling, "SMALL_TILE", 1 << 14)


def merged(method: str, folders: list[Path], out: Path, **options: Any) -> torch.Tensor:
    content = recipe(method, folders[1 : 1 + RECIPES[method]], folders[0], dtype="bfloat16")
    ms.merge(content, out, **options)
    tensor: torch.Tensor = read(out)[NAME]
    return tensor


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("misled", [False, True])
def test_bytes_are_those_of_a_tensor_in_memory(
    method: str,
    misled: bool,
    folders: list[Path],
    tmp_path: Path,
    small_memory: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = merged(method, folders, tmp_path / "reference", backend="reference")
    content = recipe(method, folders[1 : 1 + RECIPES[method]], folders[0], dtype="bfloat16")
    layout = ms.plan(content).schedule.layouts[NAME]
    assert layout.again
    assert layout.select
    assert layout.tile < kept.numel()
    assert bool(layout.rows) == (method == "arcee_fusion")
    if misled:  # by the same rows again and again: what is counted tells, and it is counted anew
        runs = answers.sample_runs
        monkeypatch.setattr(
            answers, "sample_runs", lambda task, request: [(0, n) for _, n in runs(task, request)]
        )
    assert same_bits(merged(method, folders, tmp_path / "out", backend="native"), kept)
