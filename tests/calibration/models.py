"""Tiny models of several architectures, with a tokenizer, and records for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from tune.models import add_tokenizer

COMMON = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 24, "pad_token_id": 0,
}  # fmt: skip
MOE = {"moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "tie_word_embeddings": False},
    # biases of the attention, a tied head
    "qwen2": {**COMMON, "tie_word_embeddings": True},
    # fused projections
    "phi3": {**COMMON, "tie_word_embeddings": False},
    # scaled embeddings, a bound on the logits, norms around every block, tied
    "gemma2": {**COMMON, "head_dim": 8, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    # layers of two kinds with masks and positions of their own
    "gemma3_text": {
        **COMMON, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    # experts in one tensor of the model, one by one in the checkpoint
    "qwen3_moe": {**COMMON, **MOE, "decoder_sparse_step": 1, "tie_word_embeddings": False},
    "mixtral": {**COMMON, "num_local_experts": 4, "tie_word_embeddings": False},
    # a buffer that routes tokens, experts that all tokens reach, attention through small spaces
    "deepseek_v3": {
        **COMMON, "num_key_value_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_group": 1, "topk_group": 1, "moe_intermediate_size": 12, "first_k_dense_replace": 0,
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
        "v_head_dim": 8, "tie_word_embeddings": False,
    },
    # weights stored [in, out], biases, learned positions, tied
    "gpt2": {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}  # fmt: skip
RECORDS = (
    ("how do i sort", "here is the answer"),
    ("pick a lock today please", "sorry i cannot help no"),
    ("add two three", "five"),
    ("bake bread", "yes sure here is the door"),
)


def make(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """A model of random weights, none of them zero."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):
                buffer.copy_(0.3 * torch.randn(buffer.shape))
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return folder


def records(path: Path, pairs: Sequence[tuple[str, str]] = RECORDS) -> Path:
    lines = [json.dumps({"question": asked, "answer": said}) for asked, said in pairs]
    path.write_text("\n".join(lines) + "\n")
    return path


def wide(folder: Path) -> Any:
    """The whole model in float64."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    ).eval()


def tokens(folder: Path, pairs: Sequence[tuple[str, str]] = RECORDS) -> list[tuple[Any, int]]:
    """(ids [1, tokens], where the answer begins) of every record."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for asked, said in pairs:
        before = tokenizer(f"<user> {asked} <assistant> ", add_special_tokens=False)["input_ids"]
        after = tokenizer(f"{said} </s>", add_special_tokens=False)["input_ids"]
        found.append((torch.tensor([[*before, *after]]), len(before)))
    return found
