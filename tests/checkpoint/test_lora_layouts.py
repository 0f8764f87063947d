"""Adapters whose modules are spelt or laid out differently from the base's tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

import mergesafe
from mergesafe.chat.weights import lora_factors
from mergesafe.checkpoint.format.lora import open_adapter
from mergesafe.checkpoint.format.model import Checkpoint, open_checkpoint
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.ops.low_rank import add_low_rank

from .test_lora import MODULE, A, B, base, base_path, fails, one, write_adapter

__all__ = ["base", "base_path"]  # fixtures


def test_one_prefix_for_all_modules(tmp_path: Path, base_path: Path) -> None:
    """An adapter of a text model, for the larger model that has it inside."""
    inside = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in load_file(base_path / "model.safetensors").items()
    }
    large = tmp_path / "large"
    large.mkdir()
    (tmp_path / "adapter").mkdir()
    save_file(inside, large / "model.safetensors")
    adapter = open_adapter(write_adapter(tmp_path / "adapter"), open_checkpoint(large))
    assert list(adapter.pairs) == [f"{MODULE}.weight".replace("model.", "model.language_model.", 1)]
    (warning,) = adapter.warnings
    assert "'model.'" in warning
    assert "'model.language_model.'" in warning


def test_modules_are_not_found_by_chance(tmp_path: Path, base: Checkpoint) -> None:
    """Names of another kind, for which no prefix stands: both spellings are shown."""
    other = MODULE.replace("layers", "blocks")
    pair = one(f"{other}.lora_A.weight", (2, 16)) | one(f"{other}.lora_B.weight", (16, 2))
    write_adapter(tmp_path, A | B | pair)
    fails(tmp_path, base, f"{other}.weight", f"{MODULE}.weight", "trained on")


def test_a_pattern_that_matches_nothing_is_told(tmp_path: Path, base: Checkpoint) -> None:
    write_adapter(tmp_path, config={"rank_pattern": {"o_prj": 2}, "alpha_pattern": {"o_proj": 3}})
    adapter = open_adapter(tmp_path, base)
    expected = [
        "rank_pattern has the pattern 'o_prj', which matches no adapted module",
        "alpha_pattern has the pattern 'o_proj', which matches no adapted module",
    ]
    assert [text.partition("json: ")[2] for text in adapter.warnings] == expected


def test_wrappers_in_an_adapters_names(tmp_path: Path, base: Checkpoint) -> None:
    wrapped = {
        name.replace("model.model.", "model._orig_mod.model."): x for name, x in (A | B).items()
    }
    assert wrapped.keys() != (A | B).keys()
    assert list(open_adapter(write_adapter(tmp_path, wrapped), base).pairs) == [f"{MODULE}.weight"]


@pytest.mark.parametrize("flag", [True, False])
def test_transposed_layers_of_gpt2(tmp_path: Path, flag: bool) -> None:
    """Conv1D stores [in, out]; square matrices do not show it, so the architecture decides."""
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20, "n_positions": 8}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**size))
    model.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["c_attn", "c_proj", "c_fc"])
    adapted = get_peft_model(GPT2LMHeadModel.from_pretrained(tmp_path / "base"), config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    adapted.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["fan_in_fan_out"] = flag
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    expected = adapted.merge_and_unload().state_dict()
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f"{tmp_path}/base+{tmp_path}/adapter", "parameters": {"weight": 1}}],
        "dtype": "float32",
    }
    mergesafe.merge(recipe, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    opened = open_checkpoint(tmp_path / "base")
    pairs = open_adapter(tmp_path / "adapter", opened).pairs
    changed = 0
    for name, tensor in load_file(tmp_path / "base" / "model.safetensors").items():
        # PEFT adds in another order than the engine's kernel: an ulp of numbers of order one.
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-6, atol=1e-6)
        changed += not torch.equal(merged[name], tensor)
    assert changed == len(pairs) == 4
    with Reader() as reader:
        for name, pair in pairs.items():
            assert pair.transposed
            down, up = lora_factors(pair, reader)
            weight = load_file(tmp_path / "base" / "model.safetensors")[name]
            assert torch.equal(add_low_rank(weight, down, up, pair.scale), merged[name])
