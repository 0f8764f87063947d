"""Fisher diagonals and scores, layer by layer, against autograd through the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import read
from torch.nn import functional

import mergesafe as ms

from . import models

KINDS = ("llama", "qwen2", "phi3", "gemma2", "gemma3_text", "gpt2", "qwen3_moe", "mixtral")


def truth(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """By the parameters of the whole model in float64, a record at a time."""
    model = models.wide(folder)
    sums: dict[str, torch.Tensor] = {}
    for ids, start in models.tokens(folder):
        model.zero_grad()
        logits = model(input_ids=ids).logits[0, start - 1 : -1]
        losses = functional.cross_entropy(logits, ids[0, start:], reduction="none")
        (losses.sum() if kind == "fisher" else losses.mean()).backward()
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            of_record = gradient**2 if kind == "fisher" else (parameter * gradient).abs()
            sums[name] = sums.get(name, 0.0) + of_record.detach() / len(models.RECORDS)
    return sums


def stored(folder: Path, sums: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same by the names of the checkpoint, where experts are stored one by one."""
    names = read(folder)
    found = {name: total for name, total in sums.items() if name in names}
    for name, total in sums.items():
        block = (
            "block_sparse_moe" if name.replace(".mlp.", ".block_sparse_moe.") in names else "mlp"
        )
        if name.endswith("mlp.gate.weight") and name not in names:
            found[name.replace(".mlp.", f".{block}.")] = total
        if ".experts." not in name:
            continue
        mixtral = any("block_sparse_moe" in each for each in names)
        start = name.rpartition(".")[0].replace(
            ".mlp.", ".block_sparse_moe." if mixtral else ".mlp."
        )
        called = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        for e, matrix in enumerate(total):
            parts: Any = (matrix,) if name.endswith("down_proj") else matrix.chunk(2)
            ends = called[2:] if name.endswith("down_proj") else called[:2]
            for end, part in zip(ends, parts, strict=True):
                found[f"{start}.{e}.{end}.weight"] = part
    return found


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Forward and backward ran in float32: some of its roundings, relative to the largest value."""
    return bool((ours.double() - theirs).abs().max() <= 2e-5 * theirs.abs().max() + 1e-30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", ["fisher", "score"])
def test_every_parameter_has_the_numbers_of_autograd(
    tmp_path: Path, kind: str, numbers: Any
) -> None:
    model = models.make(tmp_path / "m", kind)
    data = models.records(tmp_path / "d.jsonl")
    ms.calibrate(str(model), data, tmp_path / "out", kind=numbers)
    made, expected = read(tmp_path / "out"), stored(model, truth(model, numbers))
    assert made.keys() == expected.keys() == read(model).keys()
    for name, value in made.items():
        assert value.any(), name
        assert close(value, expected[name]), name


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_passes_of_single_parameters_change_nothing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.make(tmp_path / "m", kind)
    data = models.records(tmp_path / "d.jsonl")
    ms.calibrate(str(model), data, tmp_path / "whole", kind="fisher")
    monkeypatch.setattr(
        "mergesafe.calibration.task.Task.shares",
        lambda self, needs, fixed, what: [[i] for i in range(len(needs))],
    )
    monkeypatch.setattr("mergesafe.calibration.task.state_bytes", lambda *_: 1 << 60)
    ms.calibrate(str(model), data, tmp_path / "apart", kind="fisher")
    whole, apart = read(tmp_path / "whole"), read(tmp_path / "apart")
    assert all(close(apart[name], whole[name].double()) for name in whole)
