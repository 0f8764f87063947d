"""Merges of which an input's rows are gathered: the bytes of merging gathered copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mergesafe
from mergesafe.checkpoint.views.rows import Rows, Run
from mergesafe.outline.sources import Model, Operand
from tests.tiny import read, recipe, same_bits, save

RUNS = (Run(300, 0, 500), Run(0, 900, 200), Run(800, 1500, 1200))
NAME = "model.embed_tokens.weight"


@pytest.mark.parametrize("fill", ["zero", "mean", 7])
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_merged_as_gathered_copies(
    method: str, fill: str | int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    stored = [torch.randn(3000, 300).to(torch.bfloat16) for _ in range(3)]
    gathered = []
    for rows in stored:
        row = rows.double().mean(0).float().to(rows.dtype) if fill == "mean" else rows[7]
        out = (torch.zeros_like(row) if fill == "zero" else row).repeat(3000, 1)
        for run in RUNS:
            out[run.target : run.target + run.count] = rows[run.source : run.source + run.count]
        gathered.append(out)

    def merge(tensors: list[torch.Tensor], out: str, memory: str) -> torch.Tensor:
        base, *experts = [
            save(tmp_path / f"{out}{i}", {NAME: each}) for i, each in enumerate(tensors)
        ]
        each = {"weight": 0.5} | ({"density": 0.3} if method == "ties" else {})
        first = base if method == "ties" else None
        made = recipe(method, experts, first, each=each)
        mergesafe.merge(made, tmp_path / out, memory=memory, threads=2)
        return read(tmp_path / out)[NAME]

    expected = merge(gathered, "copies", "256MiB")
    source = Model.source

    def rows_of(model: Model, name: str) -> Operand | None:
        found = source(model, name)
        return found and replace(found, view=Rows(found.view, RUNS, 3000, fill))

    monkeypatch.setattr(Model, "source", rows_of)
    assert same_bits(merge(stored, "small", "16MiB"), expected)
    assert same_bits(merge(stored, "large", "256MiB"), expected)
