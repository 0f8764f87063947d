"""The recipes of cards.txt, and what mergekit makes of those that it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .matrix import ADDED, save_all, save_rounded
from .peer import Mergekit

_FILE = Path(__file__).with_name("cards.txt")
_TYPE = re.compile(r"^((?:out_)?dtype: ).*$", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """``like``: the card whose merge this one's equals; ``rule``: why it is not compared."""

    name: str
    text: str
    like: str | None = None
    rule: str | None = None

    @property
    def exact(self) -> str:
        """The recipe in float32."""
        return _TYPE.sub(r"\1float32", self.text)


def cards() -> dict[str, Card]:
    found = {}
    for part in _FILE.read_text().split("\n=== ")[1:]:
        head, _, text = part.partition("\n")
        name, _, how = head.partition(" | ")
        kind, _, what = how.partition(" ")
        found[name] = Card(
            name, text, what if kind == "as" else None, what if kind == "by" else None
        )
    return found


def save_lab(folder: Path) -> None:
    """The models that the cards name, in float32: ``lab/base``, ...; run there."""
    import torch

    save_rounded(folder / "rounded", torch.float32)
    save_all(folder / "lab")
    (folder / "rounded" / ADDED).rename(folder / "lab" / ADDED)


def merge_by_mergekit(card: Card, folder: Path, mergekit: Mergekit) -> Path:
    """The folder of its output, every document merged into one of its own."""
    text = card.exact.replace("lab/", f"{folder}/lab/")
    left: dict[str, dict[str, Any]] = {
        document.pop("name", ""): document for document in yaml.safe_load_all(text) if document
    }
    place = folder / "theirs" / card.name
    out = place
    while left:
        for name, document in list(left.items()):
            if any(f'"{other}"' in _quoted(document) for other in left if other != name):
                continue
            document.pop("tokenizer_source", None)  # the models have no tokenizers
            out = place / (name or "output")
            error = mergekit.merge(_placed(document, place), out)
            assert error is None, f"{card.name}: {error}"
            del left[name]
    return out


def _quoted(value: Any) -> str:
    return str(value).replace("'", '"')


def _placed(value: Any, place: Path) -> Any:
    """With the folders of documents in place of their names."""
    if isinstance(value, dict):
        return {key: _placed(each, place) for key, each in value.items()}
    if isinstance(value, list):
        return [_placed(each, place) for each in value]
    made = isinstance(value, str) and value and "/" not in value and (place / value).is_dir()
    return str(place / value) if made else value
