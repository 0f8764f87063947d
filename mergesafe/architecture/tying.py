"""Which tensors are the input embedding and the output head, and whether a model shares them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from mergesafe.architecture.names import is_tower, layer_of

#: The output head of a language model by its exact name: other modules have names that end alike.
HEADS: Final = frozenset((
    *(
        prefix + leaf
        for leaf in ("lm_head.weight", "embed_out.weight")
        for prefix in ("", "model.", "language_model.", "model.language_model.", "text_model.",
                       "thinker.", "transformer.")
    ),
    # BERT, RoBERTa, ALBERT, ModernBERT, DistilBERT, ELECTRA, XLNet, BioGPT and TrOCR, Whisper.
    "cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.weight",
    "lm_head.decoder.weight", "predictions.decoder.weight", "decoder.weight",
    "vocab_projector.weight", "generator_lm_head.weight", "lm_loss.weight",
    "output_projection.weight", "proj_out.weight",
))  # fmt: skip
_EMBEDDING: Final = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings?|tok_embeddings|tokens_embed|shared"
    r")\.weight$|^(?:(?:backbone|rwkv)\.)?embeddings\.weight$|^transformer\.w\.weight$"
)
#: What models whose head is not called ``lm_head`` hold beside their embedding (a name, or its
#: beginning where it ends in a dot), the end of the embedding's name, and the head's name.
_HEADS_BESIDE: Final = (
    ("text_decoder.cls.predictions.", "word_embeddings", "text_decoder.cls.predictions.decoder"),
    ("cls.predictions.", "word_embeddings", "cls.predictions.decoder"),
    ("predictions.", "word_embeddings", "predictions.decoder"),
    ("generator_predictions.", "word_embeddings", "generator_lm_head"),
    ("vocab_transform.", "word_embeddings", "vocab_projector"),
    ("funnel.", "word_embeddings", "lm_head"),
    ("lm_head.", "embeddings.word_embeddings", "lm_head.decoder"),
    ("head.", "tok_embeddings", "decoder"),
    ("decoder.bias", "tok_embeddings", "decoder"),
    ("lm_loss.bias", "word_embedding", "lm_loss"),
    ("biogpt.", "embed_tokens", "output_projection"),
    ("model.encoder.conv1.weight", "model.decoder.embed_tokens", "proj_out"),
)
#: Heads of models that hold nothing beside their embedding by which they could be told.
_HEADS_BY_TYPE: Final = {
    "canary": "proj_out", "modernbert-decoder": "decoder", "trocr": "output_projection",
    "whisper": "proj_out",
}  # fmt: skip
#: Models whose ``lm_head.decoder`` has no bias of its own.
_BIASLESS: Final = ("esm.", "gte.")
#: T5 and BART store one embedding under this name, and copies of it in encoder and decoder.
_SHARED: Final = re.compile(r"(?:^|\.)shared\.weight$")
#: Parts of a configuration that describe the language model inside a larger one.
TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config", "thinker_config")
FLAG: Final = "tie_word_embeddings"

#: A configuration leaves the flag out where it has the architecture's default: these share.
_TIED: Final = frozenset((
    "albert", "aya_vision", "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus",
    "biogpt", "blenderbot", "blenderbot-small", "blip", "bloom", "camembert", "canary",
    "cohere", "cohere2", "cohere2_moe", "cohere2_vision", "convbert", "ctrl", "data2vec-text",
    "deberta", "deberta-v2", "distilbert", "electra", "ernie", "ernie4_5", "ernie4_5_moe",
    "ernie4_5_vl_moe", "esm", "falcon", "falcon_mamba", "flaubert", "florence2", "fnet",
    "funnel", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4",
    "gemma4_text", "gemma4_unified", "gemma4_unified_text", "got_ocr2", "gpt-sw3", "gpt2",
    "gpt_bigcode", "gpt_neo", "gpt_neox_japanese", "granite_docling", "granite_swa", "gte",
    "hunyuan_vl", "ibert", "jetmoe", "jina_embeddings_v3", "kosmos-2", "layoutlm", "led",
    "lfm2", "lfm2_moe", "lfm2_vl", "lfm3", "lfm3_vl", "longformer", "longt5", "luke", "m2m_100",
    "mamba", "marian", "mbart", "megatron-bert", "minicpm3", "mobilebert", "modernbert",
    "modernbert-decoder", "moonshine", "mpnet", "mpt", "mra", "mt5", "mvp", "neomme",
    "nllb-moe", "nomic_bert", "nystromformer", "openai-gpt", "opt", "paddleocr_vl", "paligemma",
    "pegasus", "pegasus_x", "plbart", "pop2piano", "prophetnet", "qwen3_asr", "recurrent_gemma",
    "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "seamless_m4t",
    "seamless_m4t_v2", "shieldgemma2", "smollm3", "speech_to_text", "speecht5", "squeezebert",
    "starcoder2", "switch_transformers", "t5", "t5gemma", "t5gemma2", "tapas", "trocr", "udop",
    "umt5", "vaultgemma", "voxtral_realtime", "whisper", "xglm", "xlm", "xlm-roberta",
    "xlm-roberta-xl", "xlnet", "xmod", "yoso", "youtu", "zamba", "zamba2", "zaya",
))  # fmt: skip
#: And these do not. Models of which transformers 4 and 5 differ are in neither list.
_UNTIED: Final = frozenset((
    "afmoe", "apertus", "apertus1p5", "apertus1p5_text", "arcee", "aria", "aria_text", "axk1",
    "axk2", "bamba", "bitnet", "blt", "chameleon", "codegen", "cohere_asr", "cwm", "dbrx",
    "deepseek_ocr2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "diffllama",
    "doge", "dots1", "dots3_note", "dots3_note_text", "emu3", "eurobert", "exaone", "exaone4",
    "exaone4_5", "exaone_moe", "falcon_h1", "fast_vlm", "flex_olmo", "fuyu", "git", "glm",
    "glm4", "glm46v", "glm4_moe", "glm4_moe_lite", "glm4v", "glm4v_moe", "glm5_next",
    "glm_moe_dsa", "glm_ocr", "gpt_neox", "gpt_oss", "gptj", "granite", "granite4_vision",
    "granitemoe", "granitemoehybrid", "granitemoeshared", "helium", "hunyuan_v1_dense",
    "hunyuan_v1_moe", "hy_v3", "hy_v4", "hy_v4_vl", "hyperclovax", "idefics", "idefics2",
    "idefics3", "internlm2", "internlm3", "iquestcoder", "jais2", "jamba", "laguna", "llama",
    "llama4", "llama4_text", "llava", "llava_next", "llava_next_video", "llava_onevision",
    "longcat_flash", "mamba2", "mellum", "mimo_v2_flash", "minicpmv4_6", "minicpmv4_7",
    "minimax", "minimax_m2", "minimax_m3_vl", "minimax_m3_vl_text", "ministral", "ministral3",
    "mistral", "mistral3", "mistral4", "mixtral", "mllama", "moonshine_streaming", "nanochat",
    "nemotron", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "perception_lm", "persimmon",
    "phi", "phi3", "phi4_multimodal", "phimoe", "qwen2", "qwen2_5_vl", "qwen2_moe", "qwen2_vl",
    "qwen3", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe",
    "qwen3_next", "qwen3_omni_moe_thinker", "qwen3_vl", "rwkv", "sarvam_mla", "sarvam_moe",
    "seed_oss", "smolvlm", "solar_open", "stablelm", "step3p7", "vibevoice", "video_llama_3",
    "video_llava", "vipllava",
))  # fmt: skip


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model: often all of it."""
    inner = (config.get(key) for key in TEXT_CONFIGS)
    return next((each for each in inner if isinstance(each, Mapping)), config)


def is_tied(config: Mapping[str, Any], *, headless: bool = False) -> bool | None:
    """Whether the output head shares the input embedding, by the configuration; None: unknown.

    What the language model's own part says comes before what the whole says, and that before the
    default of the architecture, which configurations leave out. Of a ``headless`` model, which
    stores no head, either may say that it shares the embedding: else it would have no head at all.
    """
    inner = text_config(config)
    if headless and any(level.get(FLAG) is True for level in (inner, config)):
        return True
    for level in (inner, config):
        if isinstance(level.get(FLAG), bool):
            return bool(level[FLAG])
    for level in (inner, config):
        kind = level.get("model_type")
        if isinstance(kind, str) and (kind in _TIED or kind in _UNTIED):
            return kind in _TIED
    return None


def says_tying(config: Mapping[str, Any]) -> bool:
    """Whether the configuration itself has the flag, rather than the architecture a default."""
    return any(isinstance(level.get(FLAG), bool) for level in (text_config(config), config))


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same model with a head of its own: no level ties it.

    The flag is written where it is there, and where the level's own default would tie or is not
    known: transformers 4 reads it from the text part and 5 from the whole, and both tie an unknown
    type.
    """
    changed = {
        key: {**part, FLAG: False}
        for key in TEXT_CONFIGS
        if isinstance(part := config.get(key), Mapping)
        and (FLAG in part or is_tied(part) is not False)
    }
    needed = FLAG in config or is_tied(config) is not False
    return {**config, **changed, **({FLAG: False} if needed else {})}


def agreeing(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model without a head where one level ties it and the other does not:
    both do. transformers 4 reads the text part and 5 the whole.
    """
    inner = {key: part for key in TEXT_CONFIGS if isinstance(part := config.get(key), Mapping)}
    flags = {level.get(FLAG) for level in (config, *inner.values())}
    if not {True, False} <= flags:
        return dict(config)
    changed = {key: {**part, FLAG: True} for key, part in inner.items() if FLAG in part}
    return {**config, **changed, **({FLAG: True} if FLAG in config else {})}


def head_of(names: Iterable[str]) -> str | None:
    """The output head among ``names``."""
    return next((name for name in names if name in HEADS), None)


def embedding_of(names: Iterable[str]) -> str | None:
    """The input embedding of the language model among ``names``; None where several may be it."""
    found = [
        name
        for name in names
        if _EMBEDDING.search(name) and not is_tower(name) and layer_of(name) is None
    ]
    shared = [name for name in found if _SHARED.search(name)]
    chosen = shared or found
    return chosen[0] if len(chosen) == 1 else None


def is_embedding(name: str) -> bool:
    """Whether the tensor is called like an input embedding, of a language model or another."""
    return _EMBEDDING.search(name) is not None and layer_of(name) is None


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether the tensor is a weight of a layer: two dimensions, and neither embedding nor head."""
    return len(shape) == 2 and name not in HEADS and not is_embedding(name)


def head_beside(embedding: str, names: Collection[str], config: Mapping[str, Any]) -> str:
    """What transformers calls the head of the model whose embedding is called ``embedding``.

    ``names``: what else the model holds, such as the rest of BERT's head. ``config``: the model's.
    """
    if (head := _HEADS_BY_TYPE.get(str(config.get("model_type")))) is not None:
        return f"{head}.weight"
    if embedding.startswith("language_model."):
        return "language_model.lm_head.weight"
    if embedding.startswith("text_model.model."):
        return "text_model.lm_head.weight"
    if embedding.endswith("embed_in.weight"):
        return "embed_out.weight"
    for beside, end, head in _HEADS_BESIDE:
        if embedding.endswith(f"{end}.weight") and any(
            name.startswith(beside) if beside.endswith(".") else name == beside for name in names
        ):
            return f"{head}.weight"
    return "lm_head.weight"


def shared_with(name: str) -> str | None:
    """What transformers shares the bias of a head like BERT's with; None of any other tensor.

    ``cls.predictions.decoder.bias`` is stored where the head is; else ``cls.predictions.bias`` is
    stored alone.
    """
    stem = name.removesuffix(".decoder.bias")
    return f"{stem}.bias" if f"{stem}.decoder.weight" in HEADS and stem != name else None


def bias_beside(head: str, names: Collection[str]) -> str | None:
    """The bias that a model with tensors ``names``, which stores no head, has with ``head``."""
    bias = f"{head.removesuffix('weight')}bias"
    biasless = any(name.startswith(_BIASLESS) for name in names)
    return bias if shared_with(bias) in names and not biasless else None
