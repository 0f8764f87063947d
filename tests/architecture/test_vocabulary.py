"""Which tensors have a row for each token."""

from __future__ import annotations

import pytest

from mergesafe.architecture.vocabulary import vocabulary_axis

ROWS = [
    "model.embed_tokens.weight", "lm_head.weight", "lm_head.bias", "transformer.wte.weight",
    "shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight", "bert.embeddings.word_embeddings.weight",
    "cls.predictions.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias",
    "lm_head.decoder.weight", "lm_head.decoder.bias", "vocab_projector.weight",
    "generator_lm_head.bias", "predictions.decoder.bias", "backbone.embeddings.weight",
    "gpt_neox.embed_in.weight", "embed_out.weight", "transformer.word_embeddings.weight",
    "transformer.word_embedding.weight", "lm_loss.bias", "model.embeddings.tok_embeddings.weight",
    "decoder.bias", "model.tok_embeddings.weight", "output.weight",
    "model.language_model.embed_tokens.weight", "language_model.lm_head.weight",
    "model.layers.61.embed_tokens.weight", "model.layers.61.shared_head.head.weight",
]  # fmt: skip
NO_ROWS = [
    "model.layers.0.self_attn.q_proj.weight", "model.norm.weight", "transformer.wpe.weight",
    "bert.embeddings.position_embeddings.weight", "bert.embeddings.token_type_embeddings.weight",
    "bert.encoder.layer.0.attention.output.dense.weight", "lm_head.dense.weight",
    "bert.encoder.layer.0.output.dense.bias", "lm_head.layer_norm.bias", "score.weight",
    "cls.predictions.transform.dense.weight", "visual.patch_embed.proj.weight",
    "model.decoder.embed_positions.weight", "classifier.bias", "qa_outputs.weight",
    "model.vision_tower.embeddings.word_embeddings.weight",
]  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_has_rows(name: str) -> None:
    assert vocabulary_axis(name, (50, 16)) == 0


@pytest.mark.parametrize("name", NO_ROWS)
def test_has_none(name: str) -> None:
    assert vocabulary_axis(name, (50, 16)) is None


def test_the_last_dimension_of_barts_bias() -> None:
    assert vocabulary_axis("final_logits_bias", (1, 50)) == 1
