"""The model card: a README.md that says what was merged and how to do it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Final, TypeAlias

from mergesafe.markdown import code, escaped, longest_run
from mergesafe.references import hub_id, is_url

#: A Hub id (``org/name``, where a revision may follow) or a plain folder name.
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
#: How the Hub's cache names the folder of ``org/name``.
_CACHED: Final = re.compile(r"models--(?P<org>[\w.-]+?)--(?P<name>[\w.-]+)", re.ASCII)

#: Where a model lies, and its adapter if it has one, as a recipe calls them.
Places: TypeAlias = tuple[str, ...]


def model_card(
    *,
    recipe_text: str,
    method: str,
    method_title: str,
    paper: str | None,
    base: Places | None,
    models: Sequence[Places],
    version: str,
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
    beside: Sequence[str] = (),
    library: str = "transformers",
) -> str:
    """README.md with the Hub's YAML front matter, the models, the method and the recipe.

    ``base`` and ``models`` are what the recipe calls them: the model, and its adapter if it has
    one. ``beside``: whatever else it names. ``library``: what loads the output. Local paths are
    shown by folder name only, in warnings and notes too, since a card is published and a path tells
    about the machine.
    """
    named = [*([base] if base else []), *models]
    known = [*named, tuple(beside)]
    sources = _unique(display_name(*each) for each in named)
    title = f"# Merge of {escaped(', '.join(sources[:3]))}" + (
        " and others" if len(sources) > 3 else ""
    )
    cited = f" ([paper]({paper}))" if paper else ""
    fence = _fence(recipe_text)
    lines = [
        *_front_matter(_unique(display_name(part) for each in named for part in each), library),
        "",
        title,
        "",
        f"Merged by mergesafe {version} with **{method_title}** ({code(method)}){cited}.",
        "",
        "## Models",
        "",
        *([f"- base: {code(display_name(*base))}"] if base else []),
        *(f"- {code(display_name(*model))}" for model in models),
        "",
        *_section("Warnings", warnings, known),
        *_section("Notes", notes, known),
        "## Recipe",
        "",
        f"{fence}yaml",
        recipe_text.rstrip("\n"),
        fence,
        "",
    ]
    return "\n".join(lines)


def display_name(*places: str) -> str:
    """A Hub id as it is; ``org/name`` for a folder of the Hub's cache; else the folder's name.

    Of a model and an adapter, both with ``+`` between.
    """
    return "+".join(map(_display_name, places))


def _display_name(model: str) -> str:
    for part in PurePath(model).parts:
        # Of a longer text, which names no folder, the pattern takes quadratic time.
        if len(part) <= 255 and (cached := _CACHED.fullmatch(part)):
            return f"{cached['org']}/{cached['name']}"
    if named := hub_id(model):
        return named[0]
    if is_url(model):
        model = model.partition("?")[0]
    if _HUB_ID.fullmatch(model):
        return model
    return " ".join(PurePath(model).name.split()) or "(unnamed)"


def _front_matter(parts: Sequence[str], library: str) -> list[str]:
    named = [part for part in parts if _HUB_ID.fullmatch(part)]
    # A JSON string is a YAML string: "on", "1.0" and "null" stay text.
    models = ["base_model:", *(f"- {json.dumps(name)}" for name in named)] if named else []
    return ["---", *models, f"library_name: {library}", "tags:", "- mergesafe", "- merge", "---"]


def _section(title: str, messages: Sequence[str], models: Sequence[Places]) -> list[str]:
    """A list of messages in which models are called by their names."""
    shown = [f"- {escaped(_published(message, models))}" for message in messages]
    return [f"## {title}", "", *shown, ""] if shown else []


def _published(message: str, models: Sequence[Places]) -> str:
    places = {place for model in models for place in model if "/" in place}
    for place in sorted(places, key=len, reverse=True):  # a path may begin with another one
        message = message.replace(place, display_name(place))
    return message


def _fence(text: str) -> str:
    """Backticks enough that ``text`` cannot close the block."""
    return "`" * max(3, longest_run(text) + 1)


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
