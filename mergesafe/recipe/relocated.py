"""A recipe as a file in another folder says it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mergesafe.recipe.model import ModelRef, Recipe


def relocated(recipe: Recipe, folder: Path) -> Recipe:
    """``recipe`` as a file in ``folder`` says it: relative paths of models become absolute ones,
    unless ``folder`` is the recipe's own.
    """
    if os.path.realpath(folder) == os.path.realpath(recipe.folder):
        return recipe

    def moved(ref: ModelRef) -> ModelRef:
        path, adapter = ref.resolve(recipe.folder)
        return replace(
            ref, path=_absolute(ref.path, path),
            adapter=None if ref.adapter is None else _absolute(ref.adapter, adapter),
        )  # fmt: skip

    base = recipe.base_model
    template = recipe.chat_template
    if template is not None and template.kind == "file":
        path = _absolute(template.value, template.place(recipe.folder))
        template = replace(template, value=path)
    return replace(
        recipe,
        base_model=None if base is None else moved(base),
        models=tuple(
            replace(
                entry,
                ref=moved(entry.ref),
                calibration={name: moved(place) for name, place in entry.calibration.items()},
            )
            for entry in recipe.models
        ),
        references={name: moved(ref) for name, ref in recipe.references.items()},
        tokenizer=None if recipe.tokenizer is None else recipe.tokenizer.moved(moved),
        chat_template=template,
    )


def _absolute(written: str, place: Path | str | None) -> str:
    """What ``written`` names, from wherever; places on a network are as they were."""
    if not isinstance(place, Path) or written.startswith("~"):
        return written
    return str(Path.cwd() / place)  # ".." stays: behind a link it is not the folder before
