"""The recipe that a command is given: a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from mergesafe.cli.usage import RECIPES
from mergesafe.errors import ArgumentError
from mergesafe.recipe.nodes import Reporter
from mergesafe.recipe.text import STANDARD_INPUT, RecipeText, read_stream


def readable(recipe: Path) -> Path | RecipeText:
    """``recipe``, or what standard input holds for ``-``.

    Raises:
        RecipeError: standard input cannot be read or is no text.
    """
    if str(recipe) != "-":
        return recipe
    stream = getattr(sys.stdin, "buffer", None)
    report = Reporter(STANDARD_INPUT)
    if stream is None:
        raise report.error("the recipe cannot be read: standard input is closed")
    return RecipeText(read_stream(stream, report))


def check_order(recipe: Path, out: str) -> None:
    """Refuse a recipe in the place of the output.

    Raises:
        ArgumentError: the second argument is the file of a recipe, and the first one is none.
    """
    swapped = Path(out).suffix.lower() in RECIPES and Path(out).is_file()
    if swapped and recipe.suffix.lower() not in RECIPES and not recipe.is_file():
        raise ArgumentError(
            f"'{out}' is a recipe, and the recipe comes first: mergesafe merge {out} {recipe}"
        )
