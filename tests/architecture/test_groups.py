"""The groups that tables of tensors have."""

from __future__ import annotations

import pytest

from mergesafe.architecture.groups import GROUPS, in_words, tensor_group

NAMES = {
    "embedding": (
        "model.embed_tokens.weight", "transformer.wte.weight", "transformer.wpe.weight",
        "shared.weight", "bert.embeddings.position_embeddings.weight",
    ),
    "attention.k": ("model.layers.2.mixer.k_proj.weight",),
    "attention.q": (
        "model.layers.3.self_attn.q_proj.bias", "encoder.block.0.layer.0.SelfAttention.q.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
    ),
    "attention.qkv": (
        "transformer.h.0.attn.c_attn.weight", "gpt_neox.layers.0.attention.query_key_value.weight"
    ),
    "attention.o": (
        "transformer.h.0.attn.c_proj.weight", "gpt_neox.layers.0.attention.dense.weight",
        "bert.encoder.layer.0.attention.output.dense.weight",
    ),
    "mlp.gate": (
        "model.layers.3.mlp.gate_proj.weight",
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    ),
    "mlp.up": (
        "transformer.h.0.mlp.c_fc.bias", "bert.encoder.layer.0.intermediate.dense.weight",
        "model.layers.3.mlp.shared_experts.up_proj.weight",
    ),
    "mlp.down": (
        "transformer.h.0.mlp.c_proj.weight", "encoder.block.0.layer.1.DenseReluDense.wo.weight",
        "bert.encoder.layer.0.output.dense.bias", "model.layers.0.mlp.down_proj.weight_scale",
    ),
    "router": (
        "model.layers.3.mlp.gate.weight", "model.layers.3.block_sparse_moe.gate.weight",
        "model.layers.3.mlp.gate.e_score_correction_bias",
    ),
    "experts": (
        "model.layers.3.mlp.experts.4.up_proj.weight", "model.layers.3.mlp.experts.gate_up_proj",
        "model.layers.3.block_sparse_moe.experts.1.w1.weight",
    ),
    "norm": (
        "model.layers.3.post_attention_layernorm.weight", "model.layers.3.self_attn.q_norm.weight",
        "transformer.h.0.ln_1.weight", "bert.encoder.layer.0.attention.output.LayerNorm.weight",
    ),
    "final norm": ("model.norm.weight", "transformer.ln_f.bias"),
    "head": ("lm_head.weight", "embed_out.weight", "score.weight", "lm_head.dense.weight",
             "cls.predictions.transform.LayerNorm.bias", "head.weight"),
    "tower": ("model.visual.blocks.0.attn.qkv.weight",),
    "other": (
        "model.layers.0.mixer.A_log", "model.layers.3.self_attn.rotary_emb.inv_freq",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in NAMES.items() for name in names]
)
def test_names_of_many_architectures(group: str, name: str) -> None:
    assert tensor_group(name) == group


def test_words() -> None:
    assert in_words(["mlp.down", "attention.v", "attention.q", "norm"]) == (
        "attention q v, mlp down, norm"
    )
    assert set(NAMES) <= set(GROUPS)
