"""Merges of real models of transformers, made tiny, load again: no name is missing or unknown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import recipe

import mergesafe
from mergesafe.errors import MergesafeError

TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
BART = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "max_position_embeddings": 32, "decoder_start_token_id": 1,
    "pad_token_id": 0,
}  # fmt: skip
WHISPER = {**BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
MODERNBERT = {**TEXT, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
              "cls_token_id": 1, "sep_token_id": 2}  # fmt: skip
QWEN_VISION = {"depth": 3, "embed_dim": 16, "num_heads": 2, "hidden_size": 16, "patch_size": 14}
MLLAMA_VISION = {
    "hidden_size": 16, "image_size": 28, "patch_size": 14, "num_hidden_layers": 2,
    "num_global_layers": 1, "attention_heads": 2, "intermediate_size": 24,
    "intermediate_layers_indices": [0], "vision_output_dim": 32, "max_num_tiles": 1,
    "supported_aspect_ratios": [[1, 1]],
}  # fmt: skip
Model = Any


def model(kind: str, settings: dict[str, Any], seed: int) -> Model:
    """A model of random numbers; norms and biases too."""
    torch.manual_seed(seed)
    made = getattr(transformers, kind)(getattr(transformers, kind).config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return made


def weights(loaded: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.state_dict().items()}


def load(kind: str, folder: Path) -> Model:
    """The model, unless a name is missing or not known, or a shape differs."""
    made, info = getattr(transformers, kind).from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return made


def saved(tmp_path: Path, *models: Model) -> list[Path]:
    folders = [tmp_path / f"m{number}" for number in range(len(models))]
    for each, folder in zip(models, folders, strict=True):
        each.save_pretrained(folder)
    return folders


def check_mean(kind: str, folders: list[Path], out: Path) -> None:
    mergesafe.merge(recipe("linear", folders, each={"weight": 0.5}), out)
    merged = weights(load(kind, out))
    parents = [weights(load(kind, folder)) for folder in folders]
    for name, tensor in merged.items():
        if tensor.is_floating_point():
            expected = (parents[0][name].double() + parents[1][name].double()) / 2
            torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("BertLMHeadModel", {**TEXT, "is_decoder": True}),
        ("RobertaForMaskedLM", TEXT),
        ("WhisperForConditionalGeneration", WHISPER),
        ("MambaForCausalLM", {**TEXT, "state_size": 4}),
    ],
)
@pytest.mark.parametrize("tied_first", [True, False])
def test_a_tied_and_an_untied_model(
    tmp_path: Path, kind: str, settings: dict[str, Any], tied_first: bool
) -> None:
    """The head has another name than lm_head, and BERT's a bias that is shared as well."""
    tied = model(kind, {**settings, "tie_word_embeddings": True}, 1)
    untied = model(kind, {**settings, "tie_word_embeddings": False}, 2)
    pair = [tied, untied] if tied_first else [untied, tied]
    check_mean(kind, saved(tmp_path, *pair), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False


GRANITE = {**TEXT, "num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1}
GTE = {**TEXT, "mask_token_id": 3}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("GraniteMoeForCausalLM", GRANITE), ("GteForMaskedLM", GTE)],
)
@pytest.mark.parametrize("old_first", [True, False])
def test_both_layouts_of_a_type(
    tmp_path: Path, kind: str, settings: dict[str, Any], old_first: bool
) -> None:
    """Tensors that transformers 5 renames, cuts up or joins when it loads."""
    folders = [tmp_path / "old", tmp_path / "new"]
    for seed, folder in enumerate(folders):
        model(kind, settings, seed).save_pretrained(folder, save_original_format=seed == 0)
    if not old_first:
        folders.reverse()
    check_mean(kind, folders, tmp_path / "out")
    mergesafe.verify(tmp_path / "out")


def stack(tmp_path: Path, kind: str, settings: dict[str, Any]) -> Path:
    """All layers of one model, and the last of another on them."""
    first, second = saved(tmp_path, model(kind, settings, 1), model(kind, settings, 2))
    count = settings.get("num_hidden_layers", 2)
    sources = [(first, [0, count]), (second, [count - 1, count])]
    mergesafe.merge(
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": str(path), "layer_range": taken}]} for path, taken in sources
            ],
        },
        tmp_path / "out",
    )
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("kind", "settings", "head"),
    [
        ("BertLMHeadModel", {**TEXT, "is_decoder": True}, "cls.predictions.decoder.weight"),
        ("BertLMHeadModel", {**TEXT, "is_decoder": True}, "cls.predictions.bias"),
        ("RobertaForCausalLM", {**TEXT, "is_decoder": True}, "lm_head.decoder.weight"),
        ("BartForCausalLM", BART, "lm_head.weight"),
        ("Lfm2ForCausalLM", {**TEXT, "num_key_value_heads": 1}, "model.embedding_norm.weight"),
        ("WhisperForCausalLM", WHISPER, "proj_out.weight"),
        ("TrOCRForCausalLM", {**BART, "tie_word_embeddings": True}, "output_projection.weight"),
        ("ModernBertDecoderForCausalLM", MODERNBERT, "decoder.weight"),
    ],
)
def test_slices_end_with_the_last_model(
    tmp_path: Path, kind: str, settings: dict[str, Any], head: str
) -> None:
    merged = weights(load(kind, stack(tmp_path, kind, settings)))
    assert torch.equal(merged[head], weights(load(kind, tmp_path / "m1"))[head])


def test_slices_of_a_model_of_embeddings_get_no_head(tmp_path: Path) -> None:
    load("BertModel", stack(tmp_path, "BertModel", TEXT))


JAMBA = {
    **TEXT, "num_key_value_heads": 1, "num_experts": 2, "mamba_d_state": 4, "attn_layer_period": 2,
    "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
    "use_mamba_kernels": False,
}  # fmt: skip
ERNIE = {
    **TEXT, "num_key_value_heads": 1, "moe_layer_start_index": 1, "moe_layer_end_index": 1,
    "moe_intermediate_size": 8, "moe_num_experts": 2, "moe_k": 1,
}  # fmt: skip
GEMMA3N = {
    **TEXT, "num_key_value_heads": 1, "head_dim": 8, "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 40, "altup_num_inputs": 2, "laurel_rank": 2,
    "num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 2,
    "activation_sparsity_pattern": [0.0, 0.0],
}  # fmt: skip


def test_a_first_layer_of_its_own_kind_stays_first(tmp_path: Path) -> None:
    """RWKV has a norm before its first layer, and its configuration says nothing of it."""
    settings = {"vocab_size": 40, "hidden_size": 16, "attention_hidden_size": 16,
                "num_hidden_layers": 3, "context_length": 32}  # fmt: skip
    load("RwkvForCausalLM", stack(tmp_path, "RwkvForCausalLM", settings))


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("JambaForCausalLM", JAMBA, "attn_layer_period: 2"),
        ("Gemma3nForCausalLM", GEMMA3N, "hidden_size_per_layer_input: 4"),
        ("GPTNeoXJapaneseForCausalLM", TEXT, "layer 2 of the output.* of another kind"),
        ("AlbertForMaskedLM", {**TEXT, "embedding_size": 8}, "counts 2 layers, and 1 are stored"),
        ("EsmForMaskedLM", {**TEXT, "mask_token_id": 3}, "contact_head.*holds numbers for each"),
    ],
)
def test_layers_that_the_configuration_would_misname(
    tmp_path: Path, kind: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(MergesafeError, match=said):
        stack(tmp_path, kind, settings)


def test_layers_of_two_kinds_by_their_number(tmp_path: Path) -> None:
    """ERNIE's experts begin and end at layers that its configuration numbers."""
    load("Ernie4_5_MoeForCausalLM", stack(tmp_path, "Ernie4_5_MoeForCausalLM", ERNIE))


def qwen_vl(seed: int) -> Model:
    text = {**TEXT, "num_key_value_heads": 1, "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}  # fmt: skip
    settings = {"text_config": text, "vision_config": QWEN_VISION, "tie_word_embeddings": True}
    return model("Qwen2VLForConditionalGeneration", settings, seed)


def test_a_vision_model_saved_without_its_head(tmp_path: Path) -> None:
    """Layers are ``model.layers`` in one and ``language_model.layers`` in the other."""
    whole, part = qwen_vl(1), qwen_vl(2)
    whole.save_pretrained(tmp_path / "a")
    part.model.save_pretrained(tmp_path / "b")
    mergesafe.merge(
        recipe("linear", [tmp_path / "a", tmp_path / "b"], each={"weight": 0.5}), tmp_path / "out"
    )
    merged = load("Qwen2VLForConditionalGeneration", tmp_path / "out").state_dict()
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(
        merged[name], (whole.state_dict()[name] + part.state_dict()[name]) / 2, rtol=0, atol=1e-6
    )


def test_the_head_that_transformers_5_calls_otherwise(tmp_path: Path) -> None:
    made = [model("GPTNeoXForCausalLM", TEXT, seed) for seed in (1, 2)]
    made[0].save_pretrained(tmp_path / "a")
    made[1].save_pretrained(tmp_path / "b", save_original_format=False)
    check_mean("GPTNeoXForCausalLM", [tmp_path / "a", tmp_path / "b"], tmp_path / "out")


@pytest.mark.parametrize("text_first", [False, True])
def test_a_llama_and_a_model_with_layers_of_cross_attention(
    tmp_path: Path, text_first: bool
) -> None:
    """Layer k of the Llama is the k-th of Mllama's that look at no pictures."""
    text = {**TEXT, "num_key_value_heads": 1, "tie_word_embeddings": False, "rms_norm_eps": 1e-5}
    mllama = {"text_config": {**text, "num_hidden_layers": 4, "cross_attention_layers": [0, 2]},
              "vision_config": MLLAMA_VISION}  # fmt: skip
    kinds = ["MllamaForConditionalGeneration", "LlamaForCausalLM"]
    folders = saved(tmp_path, model(kinds[0], mllama, 1), model(kinds[1], text, 2))
    for folder, extra in zip(folders, (["<image>"], []), strict=True):
        tokens = [f"t{i}" for i in range(40)] + extra
        (folder / "tokenizer.json").write_text(json.dumps({"model": {
            "type": "WordLevel", "vocab": {t: i for i, t in enumerate(tokens)},
            "unk_token": "t0"}}))  # fmt: skip
    large, small = (weights(load(k, f)) for k, f in zip(kinds, folders, strict=True))
    order = folders[::-1] if text_first else folders
    made = recipe("linear", order, each={"weight": 0.5}, tokenizer_source="base")
    mergesafe.merge(made, tmp_path / "out")
    for name, tensor in weights(load(kinds[text_first], tmp_path / "out")).items():
        other = re.sub(r"^model\.language_model", "model", name)
        own = re.sub(r"^model", "model.language_model", name) if text_first else name
        if text_first:  # layer 0 is Mllama's 1, layer 1 its 3
            own = re.sub(r"layers\.(\d)", lambda m: f"layers.{2 * int(m[1]) + 1}", own)
        else:
            other = re.sub(r"layers\.([13])", lambda m: f"layers.{int(m[1]) // 2}", other)
        expected = large[own].clone()
        shared = None if re.search(r"layers\.[02]\.|vision|projector", own) else small[other]
        if shared is not None:
            rows = len(shared)
            expected[:rows] = (expected[:rows] + shared) / 2
        expected = expected[: len(tensor)] if text_first else expected
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6, msg=name)


def test_an_embedding_with_more_rows_than_tokens(tmp_path: Path) -> None:
    """Mllama's has eight for images; config.json counts the tokens."""
    settings = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "cross_attention_layers": [1],
        "pad_token_id": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    made = [model("MllamaForCausalLM", settings, seed) for seed in (1, 2)]
    check_mean("MllamaForCausalLM", saved(tmp_path, *made), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 40
