"""Gram matrices, layer by layer, against hooks on the whole model in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import read

import mergesafe as ms
from mergesafe.calibration import grams
from mergesafe.calibration.grams import Accumulator
from mergesafe.errors import NonFiniteError

from . import models

DENSE = ("llama", "qwen2", "phi3", "gemma2", "gemma3_text")


def truth(folder: Path) -> dict[str, torch.Tensor]:
    """sum x x^T / tokens of every linear layer within the stack, in float64."""
    model = models.wide(folder)
    sums: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Any:
        def add(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0.0) + x.T @ x

        return add

    for name, module in model.named_modules():
        if ".layers." in name and isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(f"{name}.weight"))
    count = 0
    with torch.no_grad():
        for ids, _ in models.tokens(folder):
            model(input_ids=ids)
            count += ids.numel()
    return {name: total / count for name, total in sums.items()}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """The layers before ran in float32: a few of its roundings, relative to the largest value."""
    return bool((ours.double() - theirs).abs().max() <= 2e-6 * theirs.abs().max())


@pytest.mark.parametrize("kind", DENSE)
def test_grams_are_those_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    model = models.make(tmp_path / "m", kind)
    data = models.records(tmp_path / "d.jsonl")
    result = ms.calibrate(str(model), data, tmp_path / "out")
    made, expected = read(tmp_path / "out"), truth(model)
    assert made.keys() == expected.keys()
    assert (result.tensors, result.records) == (len(made), len(models.RECORDS))
    for name, gram in made.items():
        assert close(gram, expected[name]), name
        assert torch.equal(gram, gram.T), name


def expert_truth(folder: Path) -> dict[str, torch.Tensor]:
    """Of every expert from the tokens that its router chose, token by token, in float64."""
    model = models.wide(folder)
    prefix = "block_sparse_moe" if model.config.model_type == "mixtral" else "mlp"
    gate, up, down = (
        ("w1", "w3", "w2") if prefix != "mlp" else ("gate_proj", "up_proj", "down_proj")
    )
    sums: dict[str, torch.Tensor] = {}

    def add(name: str, x: torch.Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + torch.outer(x, x)

    for index, layer in enumerate(model.model.layers):
        experts = layer.mlp.experts
        for e in range(4):
            for part, width in ((gate, 16), (up, 16), (down, experts.down_proj.shape[-1])):
                name = f"model.layers.{index}.{prefix}.experts.{e}.{part}.weight"
                sums[name] = torch.zeros(width, width, dtype=torch.float64)

        def hook(module: Any, inputs: tuple[torch.Tensor, ...], index: int = index) -> None:
            for x, chosen in zip(inputs[0].reshape(-1, 16), inputs[1], strict=True):
                for e in chosen.tolist():
                    both = module.gate_up_proj[e] @ x
                    half = len(both) // 2
                    mid = torch.nn.functional.silu(both[:half]) * both[half:]
                    start = f"model.layers.{index}.{prefix}.experts.{e}"
                    for part, value in ((gate, x), (up, x), (down, mid)):
                        add(f"{start}.{part}.weight", value)

        experts.register_forward_pre_hook(hook)
    count = 0
    with torch.no_grad():
        for ids, _ in models.tokens(folder):
            model(input_ids=ids)
            count += ids.numel()
    return {name: total / count for name, total in sums.items()}


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "deepseek_v3"])
def test_every_expert_has_the_gram_of_the_tokens_that_reach_it(tmp_path: Path, kind: str) -> None:
    model = models.make(tmp_path / "m", kind)
    data = models.records(tmp_path / "d.jsonl")
    ms.calibrate(str(model), data, tmp_path / "out")
    made, expected = read(tmp_path / "out"), expert_truth(model) | truth(model)
    routers = {name for name in made if name.endswith(("mlp.gate.weight", "moe.gate.weight"))}
    assert len(routers) == 2
    assert made.keys() - routers == expected.keys()
    assert all(name in read(model) for name in made)
    for name, gram in expected.items():
        assert close(made[name], gram), name


def test_an_expert_without_tokens_has_zeros(tmp_path: Path) -> None:
    model = models.make(tmp_path / "m", "qwen3_moe")
    data = models.records(tmp_path / "d.jsonl", [("add", "two")])
    ms.calibrate(str(model), data, tmp_path / "out")
    made = read(tmp_path / "out")
    assert any(not each.any() for name, each in made.items() if ".experts." in name)


def test_passes_of_fewer_matrices_and_a_file_of_states_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.make(tmp_path / "m", "qwen3_moe")
    data = models.records(tmp_path / "d.jsonl")
    ms.calibrate(str(model), data, tmp_path / "whole")
    shares = []
    original = grams.Task.shares

    def apart(self: Any, needs: Any, fixed: int, what: str) -> list[list[int]]:
        shares.append(len(original(self, needs, fixed, what)))
        return [[i] for i in range(len(needs))]

    monkeypatch.setattr("mergesafe.calibration.task.Task.shares", apart)
    monkeypatch.setattr("mergesafe.calibration.task.state_bytes", lambda *_: 1 << 60)
    ms.calibrate(str(model), data, tmp_path / "apart")
    assert shares
    whole, apart_ = read(tmp_path / "whole"), read(tmp_path / "apart")
    assert all(torch.equal(whole[name], apart_[name]) for name in whole)


def test_an_accumulator_of_several_blocks_is_the_mean_of_products() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2100, 1100, generator=generator)
    total = Accumulator(1100, 700, torch.device("cpu"))
    for piece in x.split(700):
        total.add(piece)
    mean = total.mean(2100)
    assert close(mean, x.double().T @ x.double() / 2100)
    assert torch.equal(mean, mean.T)


def test_memory_that_does_not_hold_a_layer_is_refused_before_any_work(tmp_path: Path) -> None:
    import json

    model = models.make(tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    wide = {**config, "intermediate_size": 3000}
    from transformers import AutoConfig, AutoModelForCausalLM

    made: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **{
        key: wide[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers",
                                   "num_attention_heads", "num_key_value_heads",
                                   "intermediate_size")
    }))  # fmt: skip
    made.save_pretrained(model)
    data = models.records(tmp_path / "d.jsonl")
    with pytest.raises(ms.MergesafeError, match=r"^memory=.* too small for layer") as caught:
        ms.calibrate(str(model), data, tmp_path / "out", memory="64MiB")
    least = int(str(caught.value).rpartition("at least ")[2].removesuffix("MiB"))
    ms.calibrate(str(model), data, tmp_path / "out", memory=f"{least}MiB")


def test_what_a_layer_made_is_freed_at_once(tmp_path: Path) -> None:
    """Not when Python next looks for cycles: that would be a copy for each record and layer."""
    import gc
    import weakref

    from mergesafe.calibration.api import opened_task
    from mergesafe.checkpoint.format.reader import Reader

    model, data = models.make(tmp_path / "m"), models.records(tmp_path / "d.jsonl")
    with Reader() as reader:
        _, task = opened_task(
            str(model), data, reader, target=tmp_path / "out", answers=False, memory=None,
            device="cpu", seed=0, tokens=64, limit=None, progress=None,
        )  # fmt: skip
        layers, hidden = task.model, torch.randn(1, task.ids[0].shape[1], 16)
        gc.collect()
        gc.disable()
        try:
            with torch.no_grad(), layers.loaded([*layers.shapes], task.weights):
                out = layers.run(0, task.ids[0], hidden)
                gone = weakref.ref(out)
                del out
                assert gone() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("name", ["q_proj", "down_proj"])
def test_a_model_with_nan_is_refused(tmp_path: Path, name: str) -> None:
    """Grams of the layer that has it, the last, would be finite."""
    model = models.make(tmp_path / "m", "llama")
    tensors = read(model)
    last = max(each for each in tensors if name in each)
    tensors[last][0, 0] = torch.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match=rf"safetensors: tensor '{last}' holds 1 value"):
        ms.calibrate(str(model), models.records(tmp_path / "d.jsonl"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
