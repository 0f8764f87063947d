"""Recipes that align rows by token, whose merges by mergekit 0.1.5 are stored.

Three tiny models with tokenizers of their own: some tokens are common, some of two models, some of
one, and ids agree nowhere. Only embeddings and heads are stored, by token.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import llama, save

#: The tokens of each model in the order of ids; the last of each is special.
TOKENS = {
    "base": ["<unk>", "<s>", "</s>", "one", "two", "three", "four", "<|base|>"],
    "left": ["<unk>", "</s>", "<s>", "two", "one", "five", "six", "<|user|>"],
    "right": ["<s>", "<unk>", "</s>", "six", "four", "one", "seven", "five", "<|user|>", "<|own|>"],
}
#: Rows behind the last token.
PADDING = {"base": 3, "left": 0, "right": 2}
ROW = {"kind": "model_token"}
SETTINGS = {
    "<|user|>": {"source": {"kind": "zero"}},
    "<|own|>": {"source": "right"},
    "five": {"source": {**ROW, "model": "left", "token": "six"}, "force": True},
    "one": {"source": {**ROW, "model": "right", "token_id": 3}, "force": True},
    "<|new|>": {"source": {**ROW, "model": "base", "token": "</s>"}},
    "seven": {"source": {"kind": "zero"}, "force": True},
}
LINEAR = ("linear", None, {"base": 0.2, "left": 0.5, "right": 0.9})
TASKS = ("task_arithmetic", "base", {"left": 0.4, "right": 0.7})
TIES = ("ties", "base", {"left": 0.6, "right": 0.5})
#: Name -> method, base and weights, and the section ``tokenizer``.
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "union_means": (LINEAR, {"source": "union", "pad_to_multiple_of": 1}),
    "union_base": (TASKS, {"source": "union", "pad_to_multiple_of": 1}),
    "union_ties": (TIES, {"source": "union", "pad_to_multiple_of": 1}),
    "base": (TASKS, {"source": "base", "pad_to_multiple_of": 1}),
    "model": (TASKS, {"source": "right", "pad_to_multiple_of": 1}),
    "tokens": (TASKS, {"source": "union", "tokens": SETTINGS, "pad_to_multiple_of": 1}),
    "padded": (TASKS, {"source": "union", "pad_to_multiple_of": 16}),
}


def save_models(
    folder: Path,
    tokens_of: Mapping[str, list[str]] = TOKENS,
    padding: Mapping[str, int] = PADDING,
) -> None:
    """Write models with these tokens, in float32, with files that transformers loads."""
    for seed, (name, tokens) in enumerate(tokens_of.items()):
        rows = len(tokens) + padding[name]
        tensors = llama(seed, dtype=torch.float32, vocab=rows)
        place = save(folder / name, tensors, {"vocab_size": rows, "torch_dtype": "float32"})
        special = [t for t in tokens if t.startswith("<")]
        added = [
            {"id": tokens.index(t), "content": t, "special": True, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False}
            for t in sorted(special, key=tokens.index)
        ]  # fmt: skip
        vocab = {token: index for index, token in enumerate(tokens)}
        tokenizer = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None, "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        }  # fmt: skip
        (place / "tokenizer.json").write_text(json.dumps(tokenizer))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
        settings |= {"bos_token": "<s>", "eos_token": "</s>"}
        (place / "tokenizer_config.json").write_text(json.dumps(settings))


def recipe(name: str, folder: Path) -> dict[str, Any]:
    """The recipe of a case, of models in ``folder``."""
    (method, base, weights), section = CASES[name]

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(each) for key, each in value.items()}
        return str(folder / value) if value in TOKENS else value

    models = [
        {"model": str(folder / model), "parameters": {"weight": weight}}
        for model, weight in weights.items()
    ]
    head = {} if base is None else {"base_model": str(folder / base)}
    tokenizer = placed(section)
    if section["source"] == "base":
        tokenizer["source"] = "base"
    return {"merge_method": method, **head, "models": models, "dtype": "float32",
            "tokenizer": tokenizer}  # fmt: skip
