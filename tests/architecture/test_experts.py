"""Which matrices a tensor of experts holds, by model and name."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from mergesafe.architecture.experts import looks_fused, matrices

LAYER = "model.layers.0"


def found(name: str, shape: tuple[int, ...], **config: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every matrix; they fill the tensor in order."""
    parts = matrices(name, shape, config)
    assert parts is not None
    begin = 0
    for part in parts:
        assert part.begin == begin
        begin += prod(part.shape)
    assert begin == prod(shape)
    assert len({part.name for part in parts}) == len(parts)
    return [(part.name.removeprefix(f"{LAYER}."), part.shape) for part in parts]


def test_gate_and_up_are_rows() -> None:
    name = f"{LAYER}.mlp.experts.gate_up_proj"
    assert found(name, (2, 8, 3), model_type="qwen3_moe") == [
        ("mlp.experts.0.gate_proj.weight", (4, 3)),
        ("mlp.experts.0.up_proj.weight", (4, 3)),
        ("mlp.experts.1.gate_proj.weight", (4, 3)),
        ("mlp.experts.1.up_proj.weight", (4, 3)),
    ]
    assert found(f"{LAYER}.mlp.experts.down_proj", (2, 3, 4), model_type="qwen3_moe") == [
        ("mlp.experts.0.down_proj.weight", (3, 4)),
        ("mlp.experts.1.down_proj.weight", (3, 4)),
    ]


def test_mixtral_has_other_names() -> None:
    config = {"model_type": "mixtral"}
    moe = "block_sparse_moe.experts"
    assert found(f"{LAYER}.mlp.experts.gate_up_proj", (1, 8, 3), **config) == [
        (f"{moe}.0.w1.weight", (4, 3)),
        (f"{moe}.0.w3.weight", (4, 3)),
    ]
    down = found(f"{LAYER}.mlp.experts.down_proj", (1, 3, 4), **config)
    assert down == [(f"{moe}.0.w2.weight", (3, 4))]


@pytest.mark.parametrize("kind", ["llama4_text", "gpt_oss", "qwen3_vl_moe"])
def test_columns_are_cut_by_expert_alone(kind: str) -> None:
    name = f"{LAYER}.feed_forward.experts.gate_up_proj"
    assert found(name, (2, 3, 8), model_type=kind) == [
        ("feed_forward.experts.0.gate_up_proj.weight", (3, 8)),
        ("feed_forward.experts.1.gate_up_proj.weight", (3, 8)),
    ]


def test_biases() -> None:
    name = f"{LAYER}.mlp.experts.gate_up_proj_bias"
    assert found(name, (2, 8), model_type="gpt_oss") == [
        ("mlp.experts.0.gate_up_proj.bias", (8,)),
        ("mlp.experts.1.gate_up_proj.bias", (8,)),
    ]


def test_the_text_part_of_a_larger_model_counts() -> None:
    config = {"model_type": "llama4", "text_config": {"model_type": "llama4_text"}}
    name = "language_model.model.layers.0.feed_forward.experts.down_proj"
    assert len(found(name, (4, 3, 8), **config)) == 4


def test_granite_and_jetmoe() -> None:
    granite = {"model_type": "granitemoe"}
    assert found(f"{LAYER}.block_sparse_moe.input_linear.weight", (1, 8, 3), **granite) == [
        ("block_sparse_moe.experts.0.gate_proj.weight", (4, 3)),
        ("block_sparse_moe.experts.0.up_proj.weight", (4, 3)),
    ]
    assert found(f"{LAYER}.block_sparse_moe.output_linear.weight", (1, 3, 4), **granite) == [
        ("block_sparse_moe.experts.0.down_proj.weight", (3, 4)),
    ]
    name = f"{LAYER}.self_attention.experts.input_linear.weight"
    assert found(name, (1, 8, 3), model_type="jetmoe") == [
        ("self_attention.experts.0.input_linear.weight", (8, 3)),
    ]


def test_dbrx_stores_experts_below_each_other() -> None:
    config = {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 2}}
    name = "transformer.blocks.0.ffn.experts.mlp.w1"
    assert [shape for _, shape in found(name, (6, 5), **config)] == [(3, 5), (3, 5)]
    assert matrices(name, (7, 5), config) is None
    assert matrices(name, (6, 5), {"model_type": "dbrx"}) is None


def test_step_keeps_gate_and_up_apart() -> None:
    assert found(f"{LAYER}.moe.gate_proj.weight", (2, 4, 3), model_type="step3p7") == [
        ("moe.experts.0.gate_proj.weight", (4, 3)),
        ("moe.experts.1.gate_proj.weight", (4, 3)),
    ]


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        (f"{LAYER}.mlp.experts.gate_up_proj", (2, 8, 3), "llama"),
        (f"{LAYER}.mlp.experts.3.gate_proj.weight", (8, 3), "qwen3_moe"),
        (f"{LAYER}.mlp.gate.weight", (2, 3), "qwen3_moe"),
        (f"{LAYER}.mlp.shared_experts.gate_up_proj", (2, 8, 3), "qwen3_moe"),
        (f"{LAYER}.mlp.experts.gate_up_proj", (8, 3), "qwen3_moe"),
        (f"{LAYER}.mlp.experts.gate_up_proj", (0, 8, 3), "qwen3_moe"),
        (f"{LAYER}.mlp.experts.gate_up_proj_bias", (2, 8, 3), "gpt_oss"),
        (f"{LAYER}.conv.weight", (2, 8, 3), "qwen3_moe"),
    ],
)
def test_others_are_tensors_like_any(name: str, shape: tuple[int, ...], kind: str) -> None:
    assert matrices(name, shape, {"model_type": kind}) is None


def test_what_looks_like_experts() -> None:
    name = f"{LAYER}.mlp.experts.gate_up_proj"
    assert looks_fused(name, (2, 8, 3))
    assert not looks_fused(name, (8, 3))
    assert not looks_fused(f"{LAYER}.conv.weight", (2, 8, 3))
