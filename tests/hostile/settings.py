"""Hostile ``config.json`` and ``generation_config.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .parts import edits, model, put, texts

HUGE = 1 << 40
NAN = float("nan")
BILLION = 10**9

edits("config.json", {
    "hidden_size huge": {"hidden_size": HUGE},
    "hidden_size negative": {"hidden_size": -32},
    "hidden_size zero": {"hidden_size": 0},
    "hidden_size a fraction": {"hidden_size": 32.5},
    "hidden_size text": {"hidden_size": "32"},
    "hidden_size nan": {"hidden_size": NAN},
    "hidden_size null": {"hidden_size": None},
    "hidden_size a list": {"hidden_size": [32]},
    "layers by the billion": {"num_hidden_layers": BILLION},
    "layers by the hundred thousand": {"num_hidden_layers": 100_000},
    "layers negative": {"num_hidden_layers": -1},
    "layers more than stored": {"num_hidden_layers": 3},
    "vocabulary huge": {"vocab_size": HUGE},
    "vocabulary of ten billion": {"vocab_size": 10 * BILLION},
    "intermediate_size huge": {"intermediate_size": HUGE},
    "heads that do not divide": {"num_attention_heads": 7},
    "heads by the billion": {"num_attention_heads": BILLION, "head_dim": 1},
    "heads none": {"num_attention_heads": 0},
    "key heads negative": {"num_key_value_heads": -2},
    "head_dim huge": {"head_dim": HUGE},
    "positions without end": {"max_position_embeddings": 10**18},
    "positions as text": {"max_position_embeddings": "many"},
    "rope of an unknown kind": {"rope_scaling": {"rope_type": "nonsense", "factor": -1}},
    "rope by zero": {"rope_scaling": {"rope_type": "linear", "factor": 0}},
    "rope a list": {"rope_scaling": [1, 2]},
    "rope longrope of nothing": {"rope_scaling": {"rope_type": "longrope", "factor": NAN}},
    "rope theta zero": {"rope_theta": 0},
    "model_type unknown": {"model_type": "nothing-like-it"},
    "model_type a list": {"model_type": ["llama"]},
    "model_type null": {"model_type": None},
    "model_type of pictures": {"model_type": "vit"},
    "model_type that codes audio": {"model_type": "encodec"},
    "architectures of numbers": {"architectures": [1, None, {}]},
    "half a surrogate": {"_name_or_path": "\ud800", "note": "\ud800"},
    "dtype that is a function": {"dtype": "load"},
    "dtype of nothing": {"torch_dtype": "float1", "dtype": "float1"},
    "dtype an object": {"dtype": {"": "float32", "x": 3}},
    "packed by an unknown method": {"quantization_config": {"quant_method": "nonsense"}},
    "packed in bits": {"quantization_config": {"quant_method": "gptq", "bits": -4}},
    "packed as text": {"quantization_config": "gptq"},
    "activation unknown": {"hidden_act": "os.system"},
    "own code": {"model_type": "own", "auto_map": {"AutoConfig": "own.C"}},
    "own code in a part": {"text_config": {"auto_map": {"AutoModel": "own.M"}}},
    "kernel of the Hub": {"_attn_implementation": "org/kernel"},
    "other weights": {"transformers_weights": "../x.safetensors"},
    "labels without end": {"num_labels": BILLION},
    "labels of nonsense": {"id2label": {"a": 1}},
    "tied to nothing": {"tie_word_embeddings": "\ud800"},
    "experts by the billion": {
        "model_type": "mixtral", "num_local_experts": BILLION, "num_experts_per_tok": 2,
    },
    "padding beyond the vocabulary": {"pad_token_id": BILLION},
    "epsilon text": {"rms_norm_eps": "small"},
    "layer kinds without end": {"layer_types": ["full_attention"] * 100_000},
})  # fmt: skip
texts("config.json", {
    "config empty": "",
    "config a list": "[]",
    "config torn": '{"model_type": "llama", ',
    "config nested": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "config of 5,000 digits": f'{{"model_type": "llama", "hidden_size": {"9" * 5000}}}',
    "config beyond floats": '{"model_type": "llama", "hidden_size": 1e400}',
    "config with a key twice": '{"model_type": "llama", "model_type": "bert"}',
    "config not UTF-8": b'{"model_type": "\xff"}',
    "config of 20 MB": '{"model_type": "' + "x" * 20_000_000 + '"}',
})  # fmt: skip


@model("config a pipe")
def _pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


@model("config without end")
def _endless(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


@model("config a folder")
def _folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


@model("config missing")
def _missing(folder: Path) -> None:
    (folder / "config.json").unlink()


@model("generation a pipe")
def _generation_pipe(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    os.mkfifo(folder / "generation_config.json")


@model("generation torn")
def _generation_torn(folder: Path) -> None:
    put(folder / "generation_config.json", b'{"eos_token_id": ')


_GENERATION: dict[str, dict[str, Any]] = {
    "answers without end": {"max_length": 10**18, "max_new_tokens": 10**18, "min_length": 10**17},
    "beams by the billion": {"num_beams": BILLION, "num_return_sequences": BILLION},
    "ends that are text": {"eos_token_id": ["a", None]},
    "ends beyond numbers": {"eos_token_id": [10**30]},
    "ends without end": {"eos_token_id": list(range(100_000))},
    "watermark": {"watermarking_config": {"greenlist_ratio": "x", "hashing_key": []}},
    "stop strings": {"stop_strings": ["x" * 100_000] * 10},
    "own generation": {"custom_generate": "org/name"},
    "penalty nan": {"repetition_penalty": NAN},
    "penalty text": {"repetition_penalty": "much"},
    "n-grams without end": {"no_repeat_ngram_size": 10**12},
    "words of nonsense": {"bad_words_ids": "x", "sequence_bias": [1], "suppress_tokens": "y"},
    "cache of nonsense": {"cache_implementation": "os", "compile_config": {"a": 1}},
    "assistant elsewhere": {"prompt_lookup_num_tokens": BILLION, "assistant_model": "org/name"},
}
edits("generation_config.json", _GENERATION)
