"""Small models, merged by mergesafe and, where it is installed, by mergekit."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import Tensors

import mergesafe
from mergesafe.errors import MergesafeError

from .peer import Mergekit

#: A mapping, or one for each document.
Recipe = Mapping[str, Any] | list[Mapping[str, Any]]


class World:
    """Checkpoints ``base``, ``one`` and ``two`` of tiny.llama in float32, and merges of them."""

    def __init__(self, folder: Path, mergekit: Mergekit | None) -> None:
        self.folder = folder
        self._mergekit = mergekit
        self._numbers = count()
        self.base, self.one, self.two = (
            self.save(name, tiny.llama(i, dtype=torch.float32))
            for i, name in enumerate(("base", "one", "two"))
        )

    @property
    def has_mergekit(self) -> bool:
        return self._mergekit is not None

    def save(self, name: str, tensors: Tensors, config: Mapping[str, Any] | None = None) -> str:
        """Write a model, of float32 unless ``config`` says something else; its folder."""
        stored = {"torch_dtype": "float32", **(config or {})}
        return str(tiny.save(self.folder / name, tensors, stored))

    def linear(self, *models: str, **keys: Any) -> dict[str, Any]:
        """A recipe of ``linear``, with weights 1."""
        recipe = tiny.recipe("linear", models or (self.one, self.two), parameters={"weight": 1})
        return {**recipe, **keys}

    def family(self, method: str, *experts: str, **parameters: Any) -> dict[str, Any]:
        """A recipe of a method with a base and task vectors."""
        models = experts or (self.one, self.two)
        return tiny.recipe(method, models, self.base, parameters={"weight": 0.5, **parameters})

    def ours(self, recipe: Recipe, **options: Any) -> Tensors:
        return tiny.read(self.out(recipe, **options))

    def out(self, recipe: Recipe, **options: Any) -> Path:
        """The folder of mergesafe's merge."""
        out = self.folder / f"ours {next(self._numbers)}"
        mergesafe.merge(recipe, out, **options)
        return out

    def error(self, recipe: Mapping[str, Any]) -> str:
        """What mergesafe says in place of merging."""
        with pytest.raises(MergesafeError) as caught:
            mergesafe.plan(dict(recipe))
        return str(caught.value)

    def theirs(self, recipe: Mapping[str, Any]) -> Tensors:
        """mergekit's merge."""
        return tiny.read(self.their_out(recipe))

    def their_out(self, recipe: Mapping[str, Any]) -> Path:
        """The folder of mergekit's merge."""
        out, reason = self._theirs(recipe)
        assert reason is None, reason
        return out

    def their_error(self, recipe: Mapping[str, Any]) -> str:
        """What mergekit says in place of merging."""
        _, reason = self._theirs(recipe)
        assert reason is not None
        return reason

    def mergekit_into(self, out: Path, recipe: Mapping[str, Any]) -> None:
        """mergekit's merge into a folder that is there."""
        assert self._mergekit is not None
        assert self._mergekit.merge(dict(recipe), out) is None

    def _theirs(self, recipe: Mapping[str, Any]) -> tuple[Path, str | None]:
        assert self._mergekit is not None
        out = self.folder / f"theirs {next(self._numbers)}"
        return out, self._mergekit.merge(dict(recipe), out)
