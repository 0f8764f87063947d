"""Where the recipe names the models that an error is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mergesafe.errors import CheckpointError
from mergesafe.recipe.documents import refs_of
from mergesafe.recipe.model import ModelRef, Recipe

#: Lines that are told: an error is mostly about one model, or about two that differ.
_SHOWN: Final = 3


@contextmanager
def lines_in_errors(recipe: Recipe) -> Iterator[None]:
    """Errors within say in which lines of the recipe their models stand, if they name none."""
    try:
        yield
    except CheckpointError as error:
        error.reword(lambda text: _with_lines(text, recipe))
        raise


def _with_lines(text: str, recipe: Recipe) -> str:
    """``text`` with the lines of the models that it calls by their names or paths."""
    if recipe.source is None or f"{recipe.source}:" in text:
        return text
    known: dict[str, ModelRef] = {}
    for ref in refs_of(recipe):
        for name in (ref.text, *ref.places, *map(str, filter(None, ref.resolve(recipe.folder)))):
            known.setdefault(name, ref)
    # The longest first: m/base+lora is not m/base, and m/base is no part of m/base2.
    names = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    if not names:
        return text
    found = re.findall(rf"(?<![\w/.~-])(?:{names})(?![\w-]|\.\w)", text)
    lines = {known[name].text: known[name].line for name in found}
    told = sorted((line, name) for name, line in lines.items() if line is not None)[:_SHOWN]
    if not told:
        return text
    more = (f"line {line} {name}" for line, name in told[1:])
    text += "" if text.endswith((".", ")")) else "."
    return f"{text} ({recipe.source}:{', '.join([f'{told[0][0]} names {told[0][1]}', *more])}.)"
