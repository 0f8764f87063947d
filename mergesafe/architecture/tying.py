"""Which tensors are the input embedding and the output head, and whether a model shares them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from mergesafe.architecture.names import is_tower, layer_of

#: The output head of a language model by its exact name: other modules have names that end alike.
HEADS: Final = frozenset(
    prefix + leaf
    for leaf in ("lm_head.weight", "embed_out.weight")
    for prefix in ("", "model.", "language_model.", "model.language_model.", "text_model.",
                   "thinker.", "transformer.")
)  # fmt: skip
_EMBEDDING: Final = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|shared)\.weight$"
)
#: T5 and BART store one embedding under this name, and copies of it in encoder and decoder.
_SHARED: Final = re.compile(r"(?:^|\.)shared\.weight$")
#: Parts of a configuration that describe the language model inside a larger one.
TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config", "thinker_config")
FLAG: Final = "tie_word_embeddings"

#: A configuration leaves the flag out where it has the architecture's default: these share.
_TIED: Final = frozenset(
    [
        "albert",
        "bart",
        "bert",
        "bert-generation",
        "big_bird",
        "bigbird_pegasus",
        "biogpt",
        "blenderbot",
        "blenderbot-small",
        "bloom",
        "camembert",
        "cohere",
        "cohere2",
        "ctrl",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie4_5",
        "ernie4_5_moe",
        "falcon",
        "falcon_mamba",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma3n",
        "gemma3n_text",
        "gpt-sw3",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "lfm2",
        "lfm2_moe",
        "led",
        "longt5",
        "m2m_100",
        "mamba",
        "marian",
        "mbart",
        "modernbert",
        "mpt",
        "mt5",
        "openai-gpt",
        "opt",
        "paligemma",
        "pegasus",
        "plbart",
        "recurrent_gemma",
        "roberta",
        "shieldgemma2",
        "smollm3",
        "starcoder2",
        "switch_transformers",
        "t5",
        "t5gemma",
        "umt5",
        "vaultgemma",
        "whisper",
        "xglm",
        "xlm-roberta",
        "xlnet",
        "zamba",
        "zamba2",
    ]
)
#: And these do not.
_UNTIED: Final = frozenset(
    [
        "arcee",
        "bamba",
        "codegen",
        "dbrx",
        "deepseek_v2",
        "deepseek_v3",
        "exaone4",
        "falcon_h1",
        "glm",
        "glm4",
        "glm4_moe",
        "gpt_neox",
        "gpt_oss",
        "gptj",
        "granite",
        "granitemoe",
        "helium",
        "internlm2",
        "internlm3",
        "jamba",
        "llama",
        "llama4",
        "llama4_text",
        "llava",
        "mamba2",
        "minimax",
        "ministral",
        "mistral",
        "mistral3",
        "mixtral",
        "mllama",
        "nemotron",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "persimmon",
        "phi",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "seed_oss",
        "stablelm",
    ]
)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model: often all of it."""
    inner = (config.get(key) for key in TEXT_CONFIGS)
    return next((each for each in inner if isinstance(each, Mapping)), config)


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """Whether the output head shares the input embedding, by the configuration; None: unknown.

    What the language model's own part says comes before what the whole says, and that before the
    default of the architecture, which configurations leave out.
    """
    inner = text_config(config)
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


def head_beside(embedding: str) -> str:
    """What transformers calls the head of the model whose embedding is called ``embedding``."""
    if embedding.startswith("language_model."):
        return "language_model.lm_head.weight"
    return "embed_out.weight" if embedding.endswith("embed_in.weight") else "lm_head.weight"
