"""Labels of layers and their order."""

from __future__ import annotations

from mergesafe.architecture.layers import layers_of


def test_layers_are_in_order_of_the_forward_pass() -> None:
    names = [
        "lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.10.a.weight", "model.layers.2.a.weight", "model.layers.2.a.bias",
        "model.norm.weight",
    ]  # fmt: skip
    found = layers_of(names)
    assert list(found) == ["embed_tokens", "0", "2", "10", "norm", "lm_head"]
    assert found["2"] == ["model.layers.2.a.weight", "model.layers.2.a.bias"]


def test_several_stacks_keep_their_names() -> None:
    found = layers_of(["vision.blocks.3.w", "model.layers.3.w", "wte.weight", "ln_f.bias"])
    assert list(found) == ["wte", "model.layers.3", "vision.blocks.3", "ln_f"]
