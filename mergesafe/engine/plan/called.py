"""Messages that call models what the recipe calls them.

Warnings and notes stay in the model card and the manifest, which are published and must not depend
on where the files lie: whoever writes a message about a file names its path, which is replaced
here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from mergesafe.outline.sources import Model
from mergesafe.recipe.model import Recipe
from mergesafe.references import is_url, redact


def as_called(messages: Iterable[str], recipe: Recipe, models: Iterable[Model]) -> tuple[str, ...]:
    """``messages``, each once, with the recipe's names in place of whole paths.

    The longest path is replaced first; ``/m/ab`` is no part of ``/m/abc`` or of ``/m/ab.d``.
    """
    names: dict[str, str] = {}
    for path, name in _named(recipe, models):
        if "/" in path:  # else it is the recipe's own, and may be a plain word
            names.setdefault(path, name)
    found = dict.fromkeys(messages)
    if not names:
        return tuple(found)
    paths = "|".join(re.escape(path) for path in sorted(names, key=len, reverse=True))
    whole = re.compile(rf"(?<![\w/.~-])(?:{paths})(?![\w-]|\.\w)")
    return tuple(dict.fromkeys(whole.sub(lambda m: names[m[0]], each) for each in found))


def _named(recipe: Recipe, models: Iterable[Model]) -> Iterator[tuple[str, str]]:
    for model in models:
        yield str(model.checkpoint.path), _written(model.ref.path)
        if model.adapter is not None and model.ref.adapter is not None:
            yield str(model.adapter.path), _written(model.ref.adapter)
        for name, place in recipe.calibration(model.ref).items():
            yield str(model.calibration[name].path), _written(place.path)
    if recipe.source is not None:
        yield str(recipe.source), recipe.source.name


def _written(reference: str) -> str:
    """As the recipe has it, but for a relative path's ``./``, which is lost beside the recipe."""
    if is_url(reference) or reference.startswith(("/", "~")):
        return redact(reference)
    return str(PurePath(reference))
