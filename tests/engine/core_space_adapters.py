"""Adapters of one base for tests of core space, and what lies in an adapter's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import Tensors, llama, recipe, save, save_adapter

WEIGHTS_FILE = "adapter_model.safetensors"
WEIGHTS = (0.5, 0.3, 0.4)


class Adapters:
    """A base and three adapters of it, of ranks 2, 3 and 4."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.folder = folder
        self.tensors = llama(0, dtype=dtype)
        self.base = save(folder / "base", self.tensors)
        self.places = [
            save_adapter(folder / f"a{i}", self.tensors, i + 1, rank=2 + i) for i in range(3)
        ]

    @property
    def models(self) -> list[str]:
        return [f"{self.base}+{place}" for place in self.places]

    def recipe(self, method: str = "core_space", **keys: Any) -> dict[str, Any]:
        each: list[Mapping[str, Any]] = [{"weight": w} for w in WEIGHTS]
        if method.endswith(("(tsv)", "(iso_c)")):
            each = [{}] * 3
        return recipe(method, self.models, self.base, each=each, **keys)


def read_file(path: Path) -> Tensors:
    return load_file(path)


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return found
