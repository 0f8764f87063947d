"""Random tokenizers, and recipes that align the models' rows by token."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import Tensors, read

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import mergekit_tokens

MODELS = ("base", "left", "right")
HEAD = "lm_head.weight"
#: What every tokenizer has, and what one may have.
COMMON = ["<unk>", "<s>", "</s>", "one"]
OTHERS = ["two", "three", "four", "five", "six", "<|user|>", "<|own|>", "<|end|>"]
NEW = "<|new|>"
#: The word, not the model that is called so.
BASE = "the base"


@dataclass(frozen=True)
class Case:
    """Tokens of the models in the order of their ids, rows behind them, and a recipe.

    ``tied``: models without a head. ``stored``: their type, of 16 bits or float32.
    """

    tokens: dict[str, list[str]]
    padding: dict[str, int]
    recipe: dict[str, Any]
    tied: bool = False
    stored: str = "float32"

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the models; the recipe of those in ``folder``."""
        mergekit_tokens.save_models(folder, self.tokens, self.padding)
        for name in self.tokens if self.tied or self.stored != "float32" else ():
            self._change(folder / name)
        placed: dict[str, Any] = self._placed(self.recipe, folder)
        return placed

    def _change(self, folder: Path) -> None:
        tensors, file = read(folder), folder / "config.json"
        kept = tensors.keys() - ({HEAD} if self.tied else set())
        stored = {name: tensors[name].to(getattr(torch, self.stored)) for name in kept}
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
        config = json.loads(file.read_text())
        config |= {"tie_word_embeddings": self.tied, "torch_dtype": self.stored}
        file.write_text(json.dumps(config))

    def _placed(self, value: Any, folder: Path, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self._placed(each, folder, name) for name, each in value.items()}
        if isinstance(value, list):
            return [self._placed(each, folder, key) for each in value]
        if value == BASE:
            return "base"
        is_model = value in MODELS and key in ("model", "base_model", "source")
        return str(folder / value) if is_model else value


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tokens = {}
    for name in MODELS:
        own = draw(st.lists(st.sampled_from(OTHERS), unique=True, max_size=6))
        tokens[name] = draw(st.permutations([*COMMON, *own]))
    padding = {name: draw(st.integers(0, 3)) for name in MODELS}
    section: dict[str, Any] = {"source": draw(st.sampled_from(["union", BASE, "left"]))}
    # mergekit takes what is added to the base's own tokenizer for tokens that the base has.
    known = tokens["base"] if section["source"] == BASE else [*COMMON, *OTHERS, NEW]
    settings = draw(st.dictionaries(st.sampled_from(known), _settings(), max_size=3))
    if settings:
        section["tokens"] = settings
    method = draw(st.sampled_from(["linear", "task_arithmetic", "ties", "slerp"]))
    # Without it mergesafe keeps padding. Rows that are filled up are equal, and of equal numbers
    # ties keeps all.
    section["pad_to_multiple_of"] = 1 if method == "ties" else draw(st.sampled_from([1, 4, 16]))
    recipe: dict[str, Any] = {"merge_method": method, "dtype": "float32", "tokenizer": section}
    listed = {"linear": MODELS, "slerp": MODELS[:2]}.get(method, MODELS[1:])
    recipe["models"] = [{"model": name, "parameters": {}} for name in listed]
    if method == "slerp":
        recipe["parameters"] = {"t": 0.3}
    else:
        for entry, weight in zip(recipe["models"], (0.3, 0.5, 0.9), strict=False):
            entry["parameters"]["weight"] = weight
    if method == "ties":
        recipe["parameters"] = {"density": 0.6}
    # Which is the base is chance in mergekit, without one.
    if method != "linear" or section["source"] != "left" or draw(st.booleans()):
        recipe["base_model"] = "base"
    # In 16 bits many task vectors are equal, of which ties keeps all.
    types = ["float32"] if method == "ties" else ["float32", "bfloat16", "float16"]
    return Case(tokens, padding, recipe, draw(st.booleans()), draw(st.sampled_from(types)))


def _settings() -> st.SearchStrategy[dict[str, Any]]:
    model = st.sampled_from(MODELS[:2])
    by_token = st.builds(
        lambda name, token: {"kind": "model_token", "model": name, "token": token},
        model, st.sampled_from([*COMMON, *OTHERS]),
    )  # fmt: skip
    by_id = st.builds(
        lambda name, number: {"kind": "model_token", "model": name, "token_id": number},
        model, st.integers(0, 12),
    )  # fmt: skip
    source = st.just({"kind": "zero"}) | model | by_token | by_id
    return st.builds(
        lambda chosen, force: {"source": chosen, **({"force": True} if force else {})},
        source, st.booleans(),
    )  # fmt: skip


def by_token(out: Path) -> Tensors:
    """The merged model, its tables in the order of the tokens' texts; rows of no token are last."""
    found = json.loads((out / "tokenizer.json").read_text())
    ids = {**found["model"]["vocab"], **{t["content"]: t["id"] for t in found["added_tokens"]}}
    order = [ids[token] for token in sorted(ids)]
    tensors = read(out)
    for name in {"model.embed_tokens.weight", HEAD} & tensors.keys():
        table = tensors[name]
        tensors[name] = torch.cat([table[order], table[max(order) + 1 :]])
    return {**tensors, "tokens " + " ".join(sorted(ids)): torch.ones(1)}
