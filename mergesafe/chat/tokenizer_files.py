"""A tokenizer's files, looked through before transformers and the library tokenizers read them.

Both trust what they read: a regular expression may take for ever on a line of text, a rule may turn
a letter into a million, an id of a billion makes a list of a billion names, and some numbers end
the process. The limits are far above those of any published tokenizer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mergesafe.chat.declared import TOKENIZER_CONFIG, check_own, entries, loose_object
from mergesafe.chat.patterns import problem_of
from mergesafe.checkpoint.output.companions import (
    TEMPLATE_FOLDER,
    TOKENIZER_FILES,
    TOKENIZER_SUFFIX,
)
from mergesafe.checkpoint.places.location import Location, at
from mergesafe.errors import CheckpointError, ModelError
from mergesafe.tokenizer.vocabulary import ADDED_TOKENS, LIMIT, MAX_ADDED, TOKENIZER, read_bounded
from mergesafe.untrusted import show

#: The largest id of a token; published vocabularies have up to half a million.
MAX_ID: Final = 1 << 21
#: Most characters that rules for rewriting may make of one.
MAX_GROWTH: Final = 1000
#: A list of files for releases of transformers, which take one of them in place of tokenizer.json.
_VERSIONS: Final = "fast_tokenizer_files"
_MOST_SHOWN: Final = 10**9
#: Rules that have nothing to do with each other; with more, all count as one.
_MOST_CHAINS: Final = 256


def check_tokenizer_files(place: Location) -> None:
    """Refuse files that no genuine tokenizer has; nothing of them is loaded.

    Raises:
        ModelError, CheckpointError: the message names the file, and what of it is wrong.
    """
    names = at(place).names()
    if names is None:
        names = [name for name in TOKENIZER_FILES if at(place / name).present()]
    for name in names:
        if name in TOKENIZER_FILES or name.endswith((TOKENIZER_SUFFIX, ".jinja", ".model")):
            check_own(place, name)
            _check_size(place / name)
    if TEMPLATE_FOLDER in names:
        for name in at(place / TEMPLATE_FOLDER).names() or []:
            check_own(place, f"{TEMPLATE_FOLDER}/{name}")
    config = place / TOKENIZER_CONFIG
    found = loose_object(config)
    _check_versions(config, found.get(_VERSIONS))
    added = found.get("added_tokens_decoder") or {}
    if not isinstance(added, dict):
        raise _odd(config, "added_tokens_decoder", added, "an object of ids and tokens")
    _check_added(config, added, [_whole(key) for key in added])
    for key, value in entries(found):
        if isinstance(value, list) and len(value) > MAX_ADDED:
            raise ModelError(
                f"{config}: {show(key)} lists {len(value):,} values; no tokenizer does"
            )
    added = loose_object(place / ADDED_TOKENS)
    _check_added(place / ADDED_TOKENS, added, list(added.values()))
    if TOKENIZER in names:
        _check_tokenizer(place / TOKENIZER)


def _check_versions(file: Location, named: object) -> None:
    """Refuse files that would be loaded instead of the one that is checked, compared and merged;
    they may lie anywhere.
    """
    if named and named != [TOKENIZER]:
        raise ModelError(
            f"{file}: {_VERSIONS} is {show(named)}; transformers would load such a file instead of "
            f"{TOKENIZER}, which is what is merged. Leave the entry out."
        )


def _check_size(file: Location) -> None:
    size = at(file).fingerprint()["size"]
    if size > LIMIT:
        raise CheckpointError(
            f"{file}: larger than {LIMIT:,} bytes, which no genuine file of this name is"
        )


def _check_tokenizer(file: Location) -> None:
    try:
        found = msgspec.json.decode(read_bounded(file))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{file}: not valid JSON ({error}). Download the tokenizer again."
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise ModelError(f"{file}: no model in it, expected a tokenizer. Download it again.")
    added = found.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(each, dict) for each in added):
        raise _odd(file, "added_tokens", added, "a list of objects")
    _check_added(file, added, [each.get("id") for each in added])
    if any(each.get("content") == "" for each in added):
        raise ModelError(f"{file}: an added token is empty. Correct it, or leave it out.")
    vocabulary = found["model"].get("vocab")
    if isinstance(vocabulary, dict):
        _check_ids(file, vocabulary.values())
    elif isinstance(vocabulary, list):
        _check_ids(file, [len(vocabulary)])
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        _check_rules(file, part, found.get(part))
    padding = found.get("padding") or {}
    strategy = padding.get("strategy") if isinstance(padding, dict) else None
    if isinstance(strategy, dict) and not _fits(strategy.get("Fixed")):
        raise _odd(file, "padding", strategy, "a length that a text may have")


def _check_rules(file: Location, part: str, rules: object) -> None:
    """Patterns that can be matched in bounded time, and replacements that do not explode."""
    chains: list[_Chain] = []
    for rule in _objects(rules):
        pattern = rule.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            problem = problem_of(pattern["Regex"])
            if problem is not None:
                raise ModelError(
                    f"{file}: the regular expression {show(pattern['Regex'])} of its {part} "
                    f"{problem}, so that one line of text may take for ever. Use the tokenizer of "
                    "the model's publisher."
                )
        if "precompiled_charsmap" in rule:
            chains = _joined(chains, _Chain(None, set(), 1))
        for key in ("content", "prepend", "replacement"):
            text = rule.get(key)
            if isinstance(text, str):
                fixed = pattern.get("String") if isinstance(pattern, dict) else None
                chains = _joined(chains, _chain(fixed, text))
    growth = max((each.growth for each in chains), default=1)
    if growth > MAX_GROWTH:
        raise ModelError(
            f"{file}: the rules of its {part} turn one character into {growth:,}; expected at most "
            f"{MAX_GROWTH:,}. Use the tokenizer of the model's publisher."
        )


@dataclass(frozen=True)
class _Chain:
    """Rules that may rewrite what others of them wrote: letters that they read (None: any) and
    write, and characters that they make of one.
    """

    reads: set[str] | None
    writes: set[str]
    growth: int


def _chain(pattern: object, text: str) -> _Chain:
    """One rule; rules between may change the case and the form of letters."""
    if not isinstance(pattern, str) or not pattern:
        return _Chain(None, _letters(text), max(1, len(text)))
    return _Chain(_letters(pattern), _letters(text), max(1, -(-len(text) // len(pattern))))


def _letters(text: str) -> set[str]:
    return set(unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold()))


def _joined(chains: list[_Chain], new: _Chain) -> list[_Chain]:
    """``chains`` with ``new``, which makes one of those that it has to do with."""
    if len(chains) >= _MOST_CHAINS:  # each is compared with all others
        new = _Chain(None, set(), new.growth)
    apart = []
    for each in chains:
        growth = min(each.growth * new.growth, _MOST_SHOWN)
        if each.reads is None or new.reads is None:
            new = _Chain(None, set(), growth)
        elif each.reads & new.writes or each.writes & new.reads:
            new = _Chain(each.reads | new.reads, each.writes | new.writes, growth)
        else:
            apart.append(each)
    return [*apart, new]


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
    for _, inner in entries(value):
        if isinstance(inner, dict):
            yield inner
        elif isinstance(inner, list):
            yield from (each for each in inner if isinstance(each, dict))


def _check_added(file: Location, added: Any, ids: list[Any]) -> None:
    if len(added) > MAX_ADDED:
        raise ModelError(
            f"{file}: {len(added):,} added tokens, expected at most {MAX_ADDED:,}. Use the "
            "tokenizer of the model's publisher."
        )
    _check_ids(file, ids)


def _check_ids(file: Location, ids: Any) -> None:
    for each in ids:
        if not _fits(each):
            raise _odd(file, "a token's id", each, f"a whole number from 0 to {MAX_ID:,}")


def _fits(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_ID


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text


def _odd(file: Location, what: str, value: object, expected: str) -> ModelError:
    return ModelError(
        f"{file}: {what} is {show(value)}, expected {expected}. Download the tokenizer again, or "
        "correct the file."
    )
