"""Adapters of models that learnt new tokens, several adapters of one base, adapters alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from tiny import read, recipe

from demand.users import TEXT, TOKENS, check, load, make, merge, refused, state
from mergesafe.chat.hf import fold_in
from mergesafe.checkpoint.format.model import open_checkpoint


def adapt(base: Path, folder: Path, seed: int, *, rows: int = 0, **settings: Any) -> Any:
    """A PEFT model over ``base`` whose adapter, and what it trained whole, are random; saved."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    targets = settings.pop("target_modules", ["q_proj", "down_proj"])
    config = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False, **settings
    )
    made = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    made.save_pretrained(folder)
    return made.eval()


@pytest.mark.parametrize(
    ("tied", "settings", "ties"),
    [
        (False, {"modules_to_save": ["embed_tokens", "lm_head"]}, False),
        (False, {"modules_to_save": ["embed_tokens", "lm_head"], "rows": 50}, False),
        (False, {"rows": 50}, False),
        (False, {"target_modules": ["q_proj", "lm_head"]}, False),  # its base_layer is stored
        (True, {"modules_to_save": ["embed_tokens", "lm_head"]}, False),
        (True, {"modules_to_save": ["embed_tokens"]}, False),
        (True, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_whole_modules_of_an_adapter(
    tmp_path: Path, tied: bool, settings: dict[str, Any], ties: bool
) -> None:
    """hiyouga/LlamaFactory#6749 and #3125, unslothai/unsloth#9331: what PEFT runs is what the merge
    says, with embeddings and heads that were trained whole, tied or resized.
    """
    make("LlamaForCausalLM", 0, tmp_path / "base", **TEXT, tie_word_embeddings=tied)
    run = adapt(tmp_path / "base", tmp_path / "lora", 1, **settings)
    out, told = merge(tmp_path, recipe("passthrough", ["base+lora"], dtype="float32"))
    assert "stand in place of the base's" in " ".join(told.split())
    merged = load("LlamaForCausalLM", out)
    assert merged.config.tie_word_embeddings is ties
    assert merged.config.vocab_size == settings.get("rows", TEXT["vocab_size"])
    with torch.no_grad():
        wanted = run(TOKENS).logits
        torch.testing.assert_close(merged(TOKENS).logits, wanted, rtol=1e-4, atol=1e-5)
        folded = load("LlamaForCausalLM", tmp_path / "base")
        fold_in(folded, tmp_path / "lora", open_checkpoint(tmp_path / "base"))
        torch.testing.assert_close(folded(TOKENS).logits, wanted, rtol=1e-4, atol=1e-5)


def test_whole_modules_count_as_the_type_of_the_base(tmp_path: Path) -> None:
    """PEFT saves them in float32; the merge of a 16-bit base stays a 16-bit model."""
    model = make("LlamaForCausalLM", 0, tmp_path / "base", **TEXT)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    adapt(tmp_path / "base", tmp_path / "lora", 1, modules_to_save=["embed_tokens", "lm_head"])
    out, _ = merge(tmp_path, recipe("linear", ["base+lora", "base"], each={"weight": 0.5}))
    assert {tensor.dtype for tensor in read(out).values()} == {torch.bfloat16}
    error = refused(tmp_path, recipe("core_space", ["base+lora"], "base", each={"weight": 1.0}))
    assert "lora/adapter_model.safetensors" in error
    assert "whole (modules_to_save), and factors alone are merged here" in error


def test_a_scorer_trained_by_an_adapter(tmp_path: Path) -> None:
    """PEFT trains the head of a classifier whole; a base without that head cannot take it."""
    kind = "LlamaForSequenceClassification"
    base = make(kind, 0, tmp_path / "scorer", num_labels=1, **TEXT)
    make("LlamaForCausalLM", 0, tmp_path / "text", **TEXT)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    run = peft.get_peft_model(base, config)
    with torch.no_grad():
        for parameter in run.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    run.save_pretrained(tmp_path / "lora")
    out, _ = merge(tmp_path, recipe("passthrough", ["scorer+lora"]))
    check(load(kind, out), state(run.merge_and_unload()))
    assert "'base_model.model.score.weight' is a whole tensor that the base" in refused(
        tmp_path, recipe("passthrough", ["text+lora"])
    )


def test_adapters_alone(tmp_path: Path) -> None:
    """arcee-ai/mergekit#470 and #86: the errors say how adapters are written, and both forms of
    the answer, a model and an adapter, are what PEFT makes of the sum.
    """
    make("LlamaForCausalLM", 0, tmp_path / "base", **TEXT)
    run = [adapt(tmp_path / "base", tmp_path / f"a{i}", i) for i in (1, 2)]
    error = refused(tmp_path, recipe("linear", ["a1", "a2"], each={"weight": 0.5}))
    assert "a1: this is a LoRA adapter, not a model. Write it as base+adapter" in error
    one, two = (state(each.merge_and_unload()) for each in run)
    half = {"each": {"weight": 0.5}}
    out, _ = merge(tmp_path, recipe("linear", ["base+a1", "base+a2"], **half))
    right = {name: (one[name] + two[name]) / 2 for name in one}
    check(load("LlamaForCausalLM", out), right)
    lora, _ = merge(
        tmp_path, recipe("core_space", ["base+a1", "base+a2"], "base", **half, output="adapter"),
        "adapter",
    )  # fmt: skip
    assert json.loads((lora / "adapter_config.json").read_text())["r"] == 4
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    check(peft.PeftModel.from_pretrained(model, lora).merge_and_unload(), right)
