"""Settings of config.json that are ids of tokens: they follow a token to its new id.

A model that sees knows the place of a picture by the id of a token (``image_token_id``). Under
another tokenizer that id belongs to another token, or to none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mergesafe.architecture.settings import is_level
from mergesafe.architecture.tying import text_config
from mergesafe.tokenizer.compare import tokens_shown
from mergesafe.untrusted import show

#: ``image_token_index``, ``video_token_id``, ``vision_start_token_id``, ``boi_token_index``,
#: ``decoder_start_token_id``, ``begin_suppress_tokens`` and their like.
_IDS: Final = re.compile(r"(^|_)tokens?_(id|ids|index)$|(^|_)suppress_tokens$")
Level = dict[str, Any]


@dataclass(frozen=True)
class TokenMove:
    """Where the tokens of a model are in the tokenizer that the output takes.

    ``names``: the model's ids and their tokens. ``new_id``: the new id of one of the model's ids,
    None where the new tokenizer lacks its token.
    """

    names: Mapping[int, str]
    new_id: Callable[[int], int | None]

    @classmethod
    def by_name(cls, former: Mapping[str, int], new: Mapping[str, int]) -> TokenMove:
        """Of two vocabularies, token -> id."""
        names = {index: token for token, index in former.items()}
        return cls(names, lambda index: new.get(names[index]) if index in names else None)


@dataclass
class Followed:
    """``config``, and what to say: ``changed`` settings, ``lost`` ones whose tokens are not there,
    by their path.
    """

    config: Level
    changed: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)


def token_settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every setting that is an id of a token of the text, or a list of them, with its path."""
    found: list[tuple[str, Any]] = []

    def look(path: str, key: str, value: object) -> object:
        found.append((path, value))
        return value

    _changed(config, text_config(config), look, "")
    yield from found


def follow(config: Mapping[str, Any], move: TokenMove, settled: Collection[str]) -> Followed:
    """The settings of ``config`` that are ids of tokens, but for those called as ``settled``."""
    found = Followed({})

    def change(path: str, key: str, value: object) -> object:
        several: list[Any] = value if isinstance(value, list) else [value]
        listed: list[int] = [each for each in several if _is_id(each)]
        if key in settled or not listed or len(listed) < len(several):
            return value
        moved = {each: move.new_id(each) for each in listed}
        if lacking := [each for each in listed if moved[each] is None]:
            found.lost[path] = _lost(lacking, move)
        new = [each if (index := moved[each]) is None else index for each in listed]
        if new == listed:
            return value
        result = new if isinstance(value, list) else new[0]
        found.changed.append(f"{path} {show(result)} in place of {show(value)}")
        return result

    found.config = _changed(config, text_config(config), change, "")
    return found


def _lost(ids: list[int], move: TokenMove) -> str:
    named = tuple((move.names[each], each) for each in ids if each in move.names)
    if named:
        return f"the token {tokens_shown(named)}, which the new tokenizer lacks"
    return f"{show(ids[0])}, which is no token of its tokenizer"


def _changed(
    level: Mapping[str, Any],
    text: Mapping[str, Any],
    change: Callable[[str, str, object], object],
    path: str,
) -> Level:
    found: Level = {}
    for key, value in level.items():
        place = f"{path}.{key}" if path else key
        if is_level(key, value):
            found[key] = _changed(value, text, change, place) if _speaks(value, text) else value
        else:
            found[key] = change(place, key, value) if _IDS.search(key) else value
    return found


def _speaks(level: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Whether the ids of a part are those of the text's tokens: a part with a vocabulary of its
    own, as of sounds, has other ids.
    """
    return _holds(level, lambda each: each is text) or not _holds(
        level, lambda each: "vocab_size" in each
    )


def _holds(level: Mapping[str, Any], wanted: Callable[[Mapping[str, Any]], bool]) -> bool:
    inner = (value for key, value in level.items() if is_level(key, value))
    return wanted(level) or any(_holds(each, wanted) for each in inner)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
