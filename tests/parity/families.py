"""Models of several families, number types and numbers of shards, for random recipes.

All have the layers of matrix.py, so that its recipes fit: what differs is tensors beside them
(biases, no head), configurations and files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from .matrix import ADAPTER, SIZES, added_by, save_adapter
from .recipes import SELECTIVE, Recipe

# isort: split
from mergekit_recipes import DISTANCE, LAYERS, MODELS, random_tensor, shapes

#: Name -> architecture, ``model_type``, whether head and embedding are one, what has a bias.
FAMILIES: dict[str, tuple[str, str, bool, tuple[str, ...]]] = {
    "llama": ("LlamaForCausalLM", "llama", True, ()),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", False, ("q", "k", "v")),
    "qwen2 tied": ("Qwen2ForCausalLM", "qwen2", True, ("q", "k", "v")),
    "mistral": ("MistralForCausalLM", "mistral", False, ()),
    "gemma": ("GemmaForCausalLM", "gemma", True, ()),
}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Kind:
    """What models are stored as, and what the merge is: its type is another one or None."""

    family: str
    stored: str
    shards: int
    out: str | None

    @property
    def tied(self) -> bool:
        return FAMILIES[self.family][2]

    @property
    def dtype(self) -> torch.dtype:
        """Of the output."""
        return TYPES[self.out or "float32"]

    def recipe(self, recipe: Recipe) -> Recipe:
        """``recipe`` with the output's type.

        Models of 16 bits have the adapter in a model of their own: mergekit rounds their sum.
        """
        text = json.dumps(recipe)
        if self.stored != "float32":
            text = text.replace(f"+{ADAPTER}", f" {ADAPTER}")
        made: Recipe = json.loads(text)
        return made if self.out is None else {**made, "out_dtype": self.out}

    def save(self, parent: Path) -> Path:
        """Write the models, once; their folder."""
        folder = parent / f"{self.family} {self.stored} {self.shards}"
        if folder.is_dir():
            return folder
        architecture, model_type, tied, biased = FAMILIES[self.family]
        config = {
            **SIZES.config, "architectures": [architecture], "model_type": model_type,
            "tie_word_embeddings": tied, "torch_dtype": self.stored,
            "head_dim": SIZES.hidden // SIZES.heads,
        }  # fmt: skip
        found = shapes(tied, SIZES)
        for layer in range(LAYERS):
            for name in biased:
                weight = f"model.layers.{layer}.self_attn.{name}_proj.weight"
                found[weight.replace("weight", "bias")] = found[weight][:1]
        for model in MODELS:
            tensors = {}
            for name, shape in found.items():
                value = random_tensor(f"base {name}", shape)
                if model != "base":
                    value = value + DISTANCE * random_tensor(f"{model} {name}", shape)
                tensors[name] = value.float()
            self._write(folder / model, tensors, config)
            if self.stored != "float32":
                self._write(folder / f"{model} {ADAPTER}", added_by(tensors), config)
        save_adapter(folder)
        return folder

    def _write(self, place: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        stored = {name: each.to(TYPES[self.stored]) for name, each in tensors.items()}
        names = [f"model-{n + 1:05d}-of-{self.shards:05d}.safetensors" for n in range(self.shards)]
        if self.shards == 1:
            names = ["model.safetensors"]
        where = {name: names[n % self.shards] for n, name in enumerate(sorted(stored))}
        for file in names:
            part = {name: each for name, each in stored.items() if where[name] == file}
            save_file(part, place / file, {"format": "pt"})
        if self.shards > 1:
            index = {"metadata": {"total_size": 0}, "weight_map": where}
            (place / "model.safetensors.index.json").write_text(json.dumps(index))


@st.composite
def kinds(draw: st.DrawFn, method: str) -> Kind:
    """For a recipe of ``method``: in 16 bits many task vectors are equal, and which of equal ones
    are kept is a difference on purpose.
    """
    stored = "float32" if method in SELECTIVE else draw(st.sampled_from(sorted(TYPES)))
    return Kind(
        draw(st.sampled_from(sorted(FAMILIES))), stored, draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([None, "bfloat16", "float16"])),
    )  # fmt: skip
