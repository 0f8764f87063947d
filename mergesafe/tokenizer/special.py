"""Special tokens and chat templates of two models, compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from mergesafe.checkpoint.format.model import CONFIG_LIMIT
from mergesafe.checkpoint.places.location import Location, at, read_json_file
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.tokenizer.vocabulary import TOKENIZER_CONFIG, read_bounded

SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token")
_MAP: Final = "special_tokens_map.json"
_TEMPLATE: Final = "chat_template.jinja"
_TEMPLATE_JSON: Final = "chat_template.json"


def special_differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[tuple[str, object, object]]:
    """(setting, ours, theirs) of special tokens that both settings name, but not the same."""
    for key in SPECIAL:
        one, two = content_of(ours.get(key)), content_of(theirs.get(key))
        if one is not None and two is not None and one != two:
            yield key, one, two


def content_of(token: object) -> object:
    """The text of a special token, which may be written as an object with flags."""
    return token.get("content") if isinstance(token, dict) else token


class _Token(msgspec.Struct):
    content: str
    special: bool = False


class _Added(msgspec.Struct):
    added_tokens: list[_Token] | None = None


def special_tokens(file: Location) -> list[str]:
    """The special tokens of a tokenizer.json; nothing of one that cannot be parsed."""
    try:
        added = msgspec.json.decode(read_bounded(file), type=_Added).added_tokens or ()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
    return [each.content for each in added if each.special]


def special_settings(folder: Location) -> dict[str, Any]:
    """``tokenizer_config.json`` over ``special_tokens_map.json``; nothing of files that are missing
    or malformed.
    """
    found: dict[str, Any] = {}
    for name in (_MAP, TOKENIZER_CONFIG):
        try:
            if at(folder / name).present():
                found |= read_json_file(folder / name, CONFIG_LIMIT)
        except UnreadableError:
            raise
        except CheckpointError:
            continue
    return found


def chat_template(folder: Location, settings: Mapping[str, Any]) -> object:
    """The chat template that transformers would take; ``settings``: :func:`special_settings`."""
    try:
        if at(folder / _TEMPLATE).present():
            return read_bounded(folder / _TEMPLATE).decode("utf-8", "replace")
        if at(folder / _TEMPLATE_JSON).present():
            return read_json_file(folder / _TEMPLATE_JSON, CONFIG_LIMIT).get("chat_template")
    except UnreadableError:
        raise
    except CheckpointError:
        return None
    return settings.get("chat_template")
