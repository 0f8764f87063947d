"""Which settings of config.json say nothing about what the weights mean, and common defaults.

Everything that is not listed here is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Ids of tokens that generation begins, pads and ends with. They follow the tokenizer that the
#: output takes, and are derived for it (:mod:`mergesafe.engine.plan.output_config`).
TOKEN_IDS: Final = (
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "unk_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip

#: Settings that are not compared, by what they are.
COSMETIC: Final = frozenset((
    *TOKEN_IDS,
    # Derived from what is written, or compared elsewhere.
    "vocab_size", "dtype", "torch_dtype", "tie_word_embeddings", "quantization_config",
    "compression_config", "model_type", "architectures", "auto_map", "tokenizer_class",
    # Where the file comes from.
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version",
    "transformers.js_config", "unsloth_version", "unsloth_fixed", "finetuning_task", "prefix",
    "task_specific_params", "base_model_name_or_path", "mlx_version", "_diffusers_version",
    # How it is run: caches, kernels, what is returned.
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "output_router_logits",
    "torchscript", "gradient_checkpointing", "use_bfloat16", "tf_legacy_loss", "pretraining_tp",
    "chunk_size_feed_forward", "_attn_implementation", "attn_implementation",
    "_attn_implementation_internal", "_attn_implementation_autoset", "_experts_implementation",
    "use_flash_attn", "use_flash_attention_2", "_flash_attn_2_enabled", "use_mambapy",
    "use_mamba_kernels", "use_associative_scan", "reference_compile", "deterministic_flash_attn",
    "num_logits_to_keep", "cache_implementation", "_use_sdpa", "slow_but_exact",
    # Training: initial values, dropout, auxiliary losses.
    "initializer_range", "initializer_factor", "initializer_cutoff_factor", "init_std",
    "time_step_init_scheme", "rescale_prenorm_residual", "router_aux_loss_coef",
    "aux_loss_alpha", "seq_aux", "router_jitter_noise", "z_loss_coefficient", "attention_dropout",
    "hidden_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "attn_pdrop",
    "embd_pdrop", "resid_pdrop", "dropout", "dropout_rate", "embedding_dropout", "residual_dropout",
    "activation_dropout", "classifier_dropout", "mlp_dropout", "ffn_dropout", "layerdrop",
    "encoder_layerdrop", "decoder_layerdrop", "summary_first_dropout", "problem_type",
    "ignore_index", "sparse_pred_ignore_index", "label2id", "num_labels", "label_smoothing",
    # How text is generated: generation_config.json holds it today.
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
    "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "output_scores", "return_dict_in_generate", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
))  # fmt: skip

#: Values that mean what the lack of the key means, whatever the model.
_NEUTRAL: Final[Mapping[str, Any]] = {
    "mlp_bias": False, "add_cross_attention": False, "is_decoder": False,
    "cross_attention_hidden_size": None, "is_encoder_decoder": False, "pruned_heads": {},
    "use_sliding_window": False, "qk_layernorm": False, "clip_qkv": None, "mlp_only_layers": [],
    "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
    "logits_scaling": 1.0, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False, "apply_residual_connection_post_layernorm": False,
    "use_bidirectional_attention": False, "attn_logit_softcapping": None, "n_inner": None,
    "use_qkv_bias": False, "summary_use_proj": True, "summary_type": "cls_index",
    "summary_proj_to_labels": True, "summary_activation": None, "decoder_sparse_step": 1,
    "tie_encoder_decoder": False, "position_embedding_type": "absolute", "norm_bias": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "alibi": False,
}  # fmt: skip
#: Models whose attention has no bias unless they say so.
_UNBIASED: Final = frozenset((
    "llama", "mistral", "mixtral", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "olmo",
    "olmo2", "cohere", "cohere2", "granite", "phi3", "smollm3", "deepseek_v2", "deepseek_v3",
))  # fmt: skip
#: Models whose heads have hidden_size / num_attention_heads elements, and as many key-value heads
#: as query heads, unless they say otherwise.
_PLAIN_HEADS: Final = frozenset(("llama", "qwen2", "phi3", "olmo", "olmo2", "granite", "stablelm"))
#: Models whose rotary embedding has this base unless they say otherwise.
ROPE_THETA: Final[Mapping[str, float]] = dict.fromkeys(
    ("llama", "mistral", "qwen2", "gemma", "gemma2", "phi3", "olmo", "granite", "starcoder2"),
    10000.0,
)


#: The epsilon of RMSNorm where the configuration has none.
_RMS_NORM_EPS: Final[Mapping[str, float]] = {
    **dict.fromkeys(
        ("llama", "mistral", "ministral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma",
         "gemma2", "gemma3_text", "granite", "deepseek_v2", "deepseek_v3", "smollm3"),
        1e-6,
    ),
    **dict.fromkeys(("mixtral", "phi3", "olmo2"), 1e-5),
}  # fmt: skip
#: Every how many layers one has full attention, in models that alternate it with a window.
_PATTERNS: Final[Mapping[str, int]] = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}
#: Settings that only say what ``layer_types`` says too.
PATTERN_KEYS: Final = ("sliding_window_pattern", "_sliding_window_pattern")


def _layer_types(config: Mapping[str, Any]) -> list[str] | None:
    """The types of layers that follow from a pattern, as transformers derives them."""
    given = (config.get(key) for key in PATTERN_KEYS)
    default = _PATTERNS.get(str(config.get("model_type")))
    pattern = next((each for each in given if each is not None), default)
    layers = config.get("num_hidden_layers")
    if not (isinstance(pattern, int) and isinstance(layers, int) and 0 < layers < 10_000):
        return None
    if pattern < 1:
        return None
    kinds = ("sliding_attention", "full_attention")
    return [kinds[(index + 1) % pattern == 0] for index in range(layers)]


def default_of(key: str, config: Mapping[str, Any]) -> Any:
    """What the lack of ``key`` means in ``config``; None where it is not known, or nothing."""
    kind = str(config.get("model_type"))
    if key == "attention_bias" and kind in (*_UNBIASED, "gpt_neox"):
        return kind == "gpt_neox"
    if key == "max_position_embeddings" and kind == "llama":
        return 2048
    if key == "rms_norm_eps":
        return _RMS_NORM_EPS.get(kind)
    if key == "layer_types":
        return _layer_types(config)
    if key == "sliding_window" and kind == "mistral":
        return 4096
    if key == "num_key_value_heads" and kind in _PLAIN_HEADS:
        return config.get("num_attention_heads")
    if key == "head_dim" and kind in (*_PLAIN_HEADS, "mistral", "mixtral"):
        hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
        if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
            return hidden // heads
    if key == "hidden_activation" and kind == "gemma2":
        return "gelu_pytorch_tanh"
    return _NEUTRAL.get(key)
