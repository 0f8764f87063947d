"""Recipes of modules whose merges by mergekit 0.1.5 are stored, and small Mistral 3 models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MODELS = ("base", "one", "two")
TEXT_LAYERS, VISION_LAYERS = 3, 4
_TEXT = (
    "input_layernorm", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "post_attention_layernorm",
    "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj",
)  # fmt: skip
_VISION = (
    "attention.k_proj", "attention.o_proj", "attention.q_proj", "attention.v_proj",
    "attention_norm", "feed_forward.down_proj", "feed_forward.gate_proj", "feed_forward.up_proj",
    "ffn_norm",
)  # fmt: skip
_BESIDE = (
    "language_model.model.embed_tokens", "language_model.model.norm", "language_model.lm_head",
    "multi_modal_projector.linear_1", "multi_modal_projector.linear_2",
    "multi_modal_projector.norm", "multi_modal_projector.patch_merger.merging_layer",
    "vision_tower.patch_conv", "vision_tower.ln_pre",
)  # fmt: skip
_WIDTH, _TOKENS = 4, 6
CONFIG: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
    "text_config": {
        "model_type": "mistral", "hidden_size": _WIDTH, "intermediate_size": _WIDTH,
        "num_hidden_layers": TEXT_LAYERS, "num_attention_heads": 2, "num_key_value_heads": 2,
        "head_dim": 2, "vocab_size": _TOKENS, "tie_word_embeddings": False,
    },
    "vision_config": {
        "model_type": "pixtral", "hidden_size": _WIDTH, "intermediate_size": _WIDTH,
        "num_hidden_layers": VISION_LAYERS, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4,
    },
    "tie_word_embeddings": False,
}  # fmt: skip


def shapes(text_layers: int = TEXT_LAYERS) -> dict[str, tuple[int, ...]]:
    """The tensors of a model."""
    names = [*_BESIDE]
    names += [f"language_model.model.layers.{i}.{n}" for i in range(text_layers) for n in _TEXT]
    tower = "vision_tower.transformer.layers"
    names += [f"{tower}.{i}.{n}" for i in range(VISION_LAYERS) for n in _VISION]
    return {f"{name}.weight": _shape(name) for name in names}


def _shape(name: str) -> tuple[int, ...]:
    if name.endswith(("embed_tokens", "lm_head")):
        return (_TOKENS, _WIDTH)
    return (_WIDTH,) if name.endswith(("norm", "ln_pre")) else (_WIDTH, _WIDTH)


def save_models(folder: Path) -> None:
    """Every model as a folder of its name."""
    for seed, name in enumerate(MODELS):
        generator = torch.Generator().manual_seed(seed)
        tensors = {n: torch.randn(s, generator=generator) for n, s in shapes().items()}
        (folder / name).mkdir(parents=True)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(CONFIG))


@dataclass(frozen=True)
class Parts:
    """A recipe of modules, in which models are called by their names."""

    keys: dict[str, Any]
    modules: dict[str, dict[str, Any]]
    layers: int = TEXT_LAYERS

    def recipe(self, folder: Path) -> dict[str, Any]:
        """With the models that lie in ``folder``."""
        text = json.dumps({**self.keys, "modules": self.modules, "dtype": "float32"})
        for name in MODELS:
            text = text.replace(f'"{name}"', json.dumps(str(folder / name)))
        found: dict[str, Any] = json.loads(text)
        return found


def _entry(model: str, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "parameters": parameters}


def _source(model: str, first: int, end: int) -> dict[str, Any]:
    return {"model": model, "layer_range": [first, end]}


PARTS = {
    # A module's parameters come before the recipe's, and what their filters miss is the recipe's.
    "linear": Parts(
        {"merge_method": "linear", "parameters": {
            "weight": [{"filter": "mlp", "value": 0.9}, {"value": 0.25}]}},
        {
            "text_decoder": {
                "models": [_entry("one", weight=[0.1, 0.9]),
                           _entry("two", weight=[{"filter": "norm", "value": 0.2}])]},
            "vision_tower": {
                "models": [_entry("base", weight=1), _entry("two")],
                "parameters": {"weight": [{"filter": "attention", "value": [0, 1]}],
                               "normalize": False}},
            "multi_modal_projector": {"models": [_entry("one", weight=1)]},
        },
    ),
    "ties": Parts(
        {"merge_method": "ties", "base_model": "base", "parameters": {"density": 0.5}},
        {
            "multi_modal_projector": {"models": [_entry("two", weight=1, density=1)]},
            "text_decoder": {"models": [_entry("one", weight=0.5), _entry("two", weight=[0.2, 1])]},
            "vision_tower": {"models": [_entry("base"), _entry("one", weight=0.3)]},
        },
    ),
    "slices": Parts(
        {"merge_method": "linear", "parameters": {"weight": 1}},
        {
            "text_decoder": {
                "slices": [
                    {"sources": [_source("one", 0, 2), _source("two", 1, 3)],
                     "parameters": {"weight": [{"filter": "mlp", "value": [0.2, 0.4]}]}},
                    {"sources": [_source("base", 1, 3), _source("one", 1, 3)]},
                ],
                "parameters": {"weight": [{"filter": "self_attn", "value": [0.5, 0.7]}]},
            },
            "vision_tower": {"models": [_entry("two")]},
            "multi_modal_projector": {"models": [_entry("base"), _entry("two")]},
        },
        layers=4,
    ),
}  # fmt: skip
