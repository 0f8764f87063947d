"""Oddities of config.json and generation_config.json, against the base's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mergesafe.architecture.settings import contradictions, differences, mismatch
from mergesafe.architecture.tying import is_tied
from mergesafe.checkpoint.format.model import CONFIG_NAME
from mergesafe.checkpoint.places.location import Location
from mergesafe.errors import CheckpointError
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.folder import read_settings
from mergesafe.untrusted import show

GENERATION: Final = "generation_config.json"
#: Tokens that are shown before they are only counted.
_SHOWN: Final = 3
_TIED: Final = "tie_word_embeddings"
#: Settings that force, forbid or weigh tokens: they can hide refusals or put words into a mouth.
_STEERING: Final = (
    "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "suppress_tokens",
    "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias", "constraints",
    "stop_strings", "prompt_lookup_num_tokens", "custom_generate", "guidance_scale",
)  # fmt: skip
#: (setting, lowest, highest) of what gives text that makes sense.
_RANGES: Final = (
    ("temperature", 0.0, 2.0), ("top_p", 0.05, 1.0), ("repetition_penalty", 0.5, 2.0),
    ("max_new_tokens", 16, 2**31), ("max_length", 16, 2**31),
)  # fmt: skip


def check_config(config: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[Finding]:
    """Settings that change what the weights mean; the merged model takes the base's."""
    if config and base and (reason := mismatch(config, base, "the parent", "the base")):
        yield Finding("unfit", "files", reason, CONFIG_NAME)
        return
    for each in differences(config, base) if config and base else ():
        what = f"{each.key} is {_told(each.ours)}, the base's {_told(each.theirs)}"
        yield Finding("warning", "files", f"{what}, which a merge takes", CONFIG_NAME)
    one, two = is_tied(config), is_tied(base)
    if None not in (one, two) and one != two:
        what = f"{_TIED} is {one}, the base's {two}"
        yield Finding("warning", "files", what, CONFIG_NAME)
    for text in contradictions(config):
        yield Finding("warning", "files", f"contradicts itself: {text}", CONFIG_NAME)


def _told(value: Any) -> str:
    return "absent" if value is None else show(value)


def check_generation(
    folder: Location, base: Location, config: Mapping[str, Any]
) -> Iterator[Finding]:
    """Forced and forbidden tokens, ends that differ, values out of range."""
    try:
        settings = read_settings(folder / GENERATION)
    except CheckpointError as error:
        yield Finding("warning", "files", str(error), GENERATION)
        return
    try:
        known = read_settings(base / GENERATION)
    except CheckpointError:
        known = {}
    for key in _STEERING:
        if settings.get(key) and settings[key] != known.get(key):
            yield _warn(f"{key} steers what is said: {show(settings[key])}")
    ends = settings.get("eos_token_id")
    if None not in (ends, known.get("eos_token_id")) and ends != known["eos_token_id"]:
        yield _warn(f"eos_token_id is {show(ends)}, the base's {show(known['eos_token_id'])}")
    vocabulary = config.get("vocab_size")
    for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
        value = settings.get(key)
        given = value if isinstance(value, list) else [value]
        if odd := [token for token in given if not _is_token(token, vocabulary)]:
            more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
            shown = ", ".join(map(show, odd[:_SHOWN])) + more
            none = f"no token of a vocabulary of {show(vocabulary)}"
            yield _warn(f"{key} {shown} {'is' if len(odd) == 1 else 'are'} {none}")
    for key, low, high in _RANGES:
        value = settings.get(key)
        if value is None or value == known.get(key):
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            yield _warn(f"{key} is {show(value)}, expected {low:g} to {high:g}")


def _is_token(token: object, vocabulary: object) -> bool:
    """Whether it is an id of the vocabulary, or none at all."""
    if token is None:
        return True
    below = not isinstance(vocabulary, int) or (isinstance(token, int) and token < vocabulary)
    return isinstance(token, int) and token >= 0 and below


def _warn(what: str) -> Finding:
    return Finding("warning", "files", what, GENERATION)
