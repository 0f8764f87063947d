"""Fixtures shared by all tests: tiny checkpoints that transformers can load."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

# Tests that need a Hub bring their own: without this, a recipe with a wrong path would ask the real
# one. Set before huggingface_hub is imported, and inherited by the commands that tests run.
os.environ["HF_HUB_OFFLINE"] = "1"


@dataclass(frozen=True)
class Family:
    """A base and two experts of it, and the folder that they lie in."""

    folder: Path
    base: Path
    experts: tuple[Path, Path]

    @property
    def models(self) -> tuple[Path, ...]:
        return (self.base, *self.experts)


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """Fresh bf16 checkpoints ``base``, ``one`` and ``two``, which a test may change."""
    names = ("base", "one", "two")
    base, one, two = (tiny.save(tmp_path / n, tiny.llama(i)) for i, n in enumerate(names))
    for folder in (base, one, two):
        (folder / "tokenizer.json").write_text("{}")  # there, and no more than that
    return Family(tmp_path, base, (one, two))
