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


def test_modules_of_one_name_are_told_apart() -> None:
    """BERT has a ``LayerNorm`` on both sides of its layers, T5 a last norm for each stack."""
    names = [
        "bert.embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.a.weight", "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.bias", "encoder.final_layer_norm.weight",
        "decoder.final_layer_norm.weight",
    ]  # fmt: skip
    found = layers_of(names)
    assert sorted(name for some in found.values() for name in some) == sorted(names)
    assert found["bert.embeddings.LayerNorm"] == names[:2]
    assert {"cls.predictions.transform.LayerNorm", "decoder.final_layer_norm"} < found.keys()
