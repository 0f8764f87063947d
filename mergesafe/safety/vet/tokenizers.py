"""Whether two tokenizers give every token the same id, and split text in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mergesafe.checkpoint._parse import show
from mergesafe.checkpoint.carry import TOKENIZER_FILES
from mergesafe.checkpoint.location import Location, at, read_json_file, same_content
from mergesafe.errors import CheckpointError
from mergesafe.safety.vet.findings import Finding, amount, listing
from mergesafe.safety.vet.folder import read_settings

FILE: Final = "tokenizer.json"
_CONFIG: Final = "tokenizer_config.json"
_LIMIT: Final = 128 << 20
#: Parts of tokenizer.json that decide how text becomes tokens.
_PARTS: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_VOCABULARIES: Final = tuple(
    name for name in TOKENIZER_FILES if "config" not in name and "template" not in name
)
_SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token")


def check_tokenizer(folder: Location, base: Location, rows: int | None) -> Iterator[Finding]:
    """Differences from the base's tokenizer; ``rows``: how many the embedding has."""
    if not at(folder / FILE).present():
        yield from _other_files(folder, base)
        return
    try:
        if at(base / FILE).present() and same_content(folder / FILE, base / FILE):
            yield from _special(folder, base)
            return
        ours = read_json_file(folder / FILE, _LIMIT)
        theirs = read_json_file(base / FILE, _LIMIT) if at(base / FILE).present() else None
        vocabulary = vocabulary_of(ours)
        beyond = [token for token, index in vocabulary.items() if rows and index >= rows]
        if beyond:
            what = f"tokens without a row in the embedding of {rows}: {_shown(beyond)}"
            yield Finding("unfit", "files", what, FILE)
        if theirs is None:
            yield Finding("note", "files", "the base has no tokenizer.json to compare with", FILE)
            return
        yield from _vocabularies(vocabulary, vocabulary_of(theirs))
        yield from _splitting(ours, theirs)
        yield from _special(folder, base)
    except CheckpointError as error:
        yield Finding("unfit", "files", str(error), FILE)


def vocabulary_of(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id of a tokenizer.json: its model's vocabulary and the added tokens.

    Raises:
        CheckpointError: there is no such vocabulary in it.
    """
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    added = tokenizer.get("added_tokens") or []
    try:
        if isinstance(vocab, dict):  # BPE, WordPiece, WordLevel
            found = {str(token): int(index) for token, index in vocab.items()}
        elif isinstance(vocab, list):  # Unigram: [token, score] by id
            found = {str(entry[0]): index for index, entry in enumerate(vocab)}
        else:
            raise TypeError
        found.update({str(entry["content"]): int(entry["id"]) for entry in added})
    except (TypeError, ValueError, KeyError, IndexError):
        raise CheckpointError(
            f"{FILE}: holds no vocabulary that maps tokens to ids. Download it again."
        ) from None
    return found


def _vocabularies(ours: dict[str, int], theirs: dict[str, int]) -> Iterator[Finding]:
    moved = [token for token in ours if token in theirs and ours[token] != theirs[token]]
    taken = {index: token for token, index in theirs.items()}
    renamed = [t for t, index in ours.items() if t not in theirs and index in taken]
    added = [t for t, index in ours.items() if t not in theirs and index not in taken]
    used = set(ours.values())
    missing = [t for t, index in theirs.items() if t not in ours and index not in used]
    if moved:
        example = moved[0]
        what = (
            f"{amount(len(moved), 'token has', 'tokens have')} another id ({show(example)}: "
            f"{ours[example]} here, {theirs[example]} in the base), so a merge would mix the rows "
            "of different tokens"
        )
        yield Finding("unfit", "files", what, FILE)
    if renamed:
        pairs = [f"{show(t)} for {show(taken[ours[t]])}" for t in renamed]
        yield Finding("warning", "files", f"ids with another token: {listing(pairs)}", FILE)
    if added:
        what = f"{amount(len(added), 'token', 'tokens')} that the base has not: {_shown(added)}"
        yield Finding("warning", "files", what, FILE)
    if missing:
        what = amount(
            len(missing), "token of the base is missing", "tokens of the base are missing"
        )
        what = f"{what}: {_shown(missing)}"
        yield Finding("warning", "files", what, FILE)


def _splitting(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Finding]:
    parts = [part for part in _PARTS if ours.get(part) != theirs.get(part)]
    if ours["model"].get("merges") != theirs["model"].get("merges"):
        parts.append("merges")
    if parts:
        what = f"{', '.join(parts)} differ from the base's: the same text becomes other tokens"
        yield Finding("warning", "files", what, FILE)


def _special(folder: Location, base: Location) -> Iterator[Finding]:
    ours, theirs = (read_settings(place / _CONFIG) for place in (folder, base))
    for key in _SPECIAL:
        one, two = (_content(settings.get(key)) for settings in (ours, theirs))
        if one is not None and two is not None and one != two:
            what = f"{key} is {show(one)}, the base's {show(two)}"
            yield Finding("warning", "files", what, _CONFIG)


def _content(token: object) -> object:
    return token.get("content") if isinstance(token, dict) else token


def _other_files(folder: Location, base: Location) -> Iterator[Finding]:
    """Tokenizers in other files, compared as they are."""
    known = [name for name in _VOCABULARIES if at(base / name).present()]
    for name in known:
        if at(folder / name).present():
            if not same_content(folder / name, base / name):
                yield Finding("warning", "files", "differs from the base's", name)
            return
    if known:
        what = "no tokenizer to compare; a merge takes the base's"
        yield Finding("note", "files", what, known[0])


def _shown(tokens: list[str]) -> str:
    return listing([show(token) for token in tokens])
