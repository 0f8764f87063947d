"""What differs beside the weights: settings, tokenizers, chat templates, files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from mergesafe.architecture.settings import differences
from mergesafe.architecture.tying import FLAG, text_config
from mergesafe.checkpoint.format.model import CONFIG_LIMIT, CONFIG_NAME
from mergesafe.checkpoint.output.companions import (
    GENERATION_NAME,
    is_template,
    is_vocabulary,
)
from mergesafe.checkpoint.places.location import Location, at, read_json_file, same_content
from mergesafe.engine.plan.companions import companions_of, folders_of
from mergesafe.engine.plan.token_ids import tokenizer_of
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.outline.sources import Model
from mergesafe.results.diff import FileDiff, SettingDiff, TokenizerDiff
from mergesafe.tokenizer.compare import SHOWN, Differences, compare_files
from mergesafe.tokenizer.special import SPECIAL, chat_template, content_of, special_settings
from mergesafe.untrusted import show

TemplateDiff: TypeAlias = Literal["same", "different", "only in a", "only in b", "none"]
#: What is told by :func:`tokenizer_diff` and :func:`generation_diff`, not as a file.
_TOLD = (GENERATION_NAME, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def config_diff(a: Model, b: Model) -> list[SettingDiff]:
    """Settings of config.json that mean something else, in whatever spelling; nothing of what says
    nothing about the weights (:mod:`mergesafe.architecture.cosmetic`), and whether the head shares
    the embedding. Of a model without config.json, as a single file, nothing is known.
    """
    one, two = a.checkpoint.config, b.checkpoint.config
    if not (one and two):
        return []
    found = [_setting(each.key, each.ours, each.theirs) for each in differences(one, two)]
    # A merge derives these from what is stored, so that differences() leaves them out.
    derived = (
        (FLAG, a.checkpoint.tied, b.checkpoint.tied),
        ("vocab_size", text_config(one).get("vocab_size"), text_config(two).get("vocab_size")),
    )
    return found + [_setting(*each) for each in derived if each[1] != each[2]]


def config_notes(a: Model, b: Model) -> list[str]:
    """Which of them have no settings to compare."""
    known = [bool(model.checkpoint.config) for model in (a, b)]
    if all(known):
        return []
    whose = f"only {'a' if known[0] else 'b'} has one" if any(known) else "neither has one"
    return [f"{CONFIG_NAME}: {whose}, so that settings were not compared"]


def generation_diff(a: Model, b: Model) -> list[SettingDiff]:
    """generation_config.json, key by key."""
    one, two = (_json_of(model, GENERATION_NAME) for model in (a, b))
    return list(_by_key(one, two, ignored=("_from_model_config", "transformers_version")))


def adapter_diff(a: Model, b: Model) -> list[SettingDiff]:
    """adapter_config.json, key by key; one adapter against none is a difference."""
    one, two = a.adapter, b.adapter
    if one is None or two is None:
        if one is two:
            return []
        texts = [model.ref.places[1] if model.adapter else None for model in (a, b)]
        return [SettingDiff("adapter", *texts)]
    return list(_by_key(one.config, two.config, ignored=("base_model_name_or_path",)))


def tokenizer_diff(a: Model, b: Model) -> TokenizerDiff:
    """Vocabularies by token, and special tokens."""
    one, two = tokenizer_of(a), tokenizer_of(b)
    if not (one.kinds and two.kinds):
        if not (one.kinds or two.kinds):
            return TokenizerDiff(same=None, why="neither model has a tokenizer")
        return TokenizerDiff(same=False, why=f"only {'a' if one.kinds else 'b'} has a tokenizer")
    ours, theirs = special_settings(one.folder), special_settings(two.folder)
    special = [
        _setting(key, content_of(ours.get(key)), content_of(theirs.get(key)))
        for key in SPECIAL
        if content_of(ours.get(key)) != content_of(theirs.get(key))
    ]
    try:
        found = compare_files(one, two)
    except UnreadableError:
        raise
    except CheckpointError as error:
        return TokenizerDiff(same=None, why=str(error), special=special)
    return TokenizerDiff(
        same=not found,
        moved=len(found.moved),
        renamed=len(found.renamed),
        only_a=len(found.added),
        only_b=len(found.missing),
        examples=list(_examples(found)),
        special=special,
    )


def _examples(found: Differences) -> Iterator[str]:
    for token, here, there in found.moved[:SHOWN]:
        yield f"{show(token)} is {here} in a, {there} in b"
    for index, ours, theirs in found.renamed[:SHOWN]:
        yield f"{index} is {show(ours)} in a, {show(theirs)} in b"
    for side, tokens in (("a", found.added), ("b", found.missing)):
        yield from (f"only {side} has {show(token)} ({number})" for token, number in tokens[:SHOWN])


def template_diff(a: Model, b: Model) -> TemplateDiff:
    """The chat templates that transformers would take."""
    places = [tokenizer_of(model).folder for model in (a, b)]
    one, two = (chat_template(place, special_settings(place)) for place in places)
    if one is None or two is None:
        return "none" if one is two else "only in b" if one is None else "only in a"
    return "same" if one == two else "different"


def files_diff(a: Model, b: Model) -> list[FileDiff]:
    """Files that a merge would carry over, byte by byte, but for those that are compared by what
    they say.
    """
    one, two = ({name: path for path, name in companions_of(m, m)} for m in (a, b))
    found = []
    for name in {**one, **two}:
        if name in _TOLD or is_vocabulary(name) or is_template(name):
            continue
        if name not in two:
            found.append(FileDiff(name, "only in a"))
        elif name not in one:
            found.append(FileDiff(name, "only in b"))
        elif not same_content(one[name], two[name]):
            found.append(FileDiff(name, "bytes"))
    return found


def _json_of(model: Model, name: str) -> Mapping[str, Any]:
    for folder in folders_of(model):
        place: Location = folder / name
        if at(folder).is_dir() and at(place).exists():
            return read_json_file(place, CONFIG_LIMIT)
    return {}


def _by_key(
    one: Mapping[str, Any], two: Mapping[str, Any], *, ignored: tuple[str, ...]
) -> Iterator[SettingDiff]:
    for key in {**one, **two}:
        if key not in ignored and one.get(key) != two.get(key):
            yield _setting(key, one.get(key), two.get(key))


def _setting(key: str, a: object, b: object) -> SettingDiff:
    return SettingDiff(key, _text(a), _text(b))


def _text(value: object) -> str | None:
    """A value as JSON has it, shortened."""
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:197]}..."
