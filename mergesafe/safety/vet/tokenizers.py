"""Whether two tokenizers give every token the same id, and split text in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mergesafe.checkpoint.places.location import Location, read_json_file, same_content
from mergesafe.errors import CheckpointError
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.findings import SHOWN, amount, listing
from mergesafe.safety.vet.folder import read_settings
from mergesafe.tokenizer.compare import Differences, compare_files, tokenizer_files
from mergesafe.tokenizer.special import special_differences
from mergesafe.tokenizer.vocabulary import LIMIT, TOKENIZER, TOKENIZER_CONFIG
from mergesafe.untrusted import show

#: Parts of tokenizer.json that decide how text becomes tokens.
_PARTS: Final = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def check_tokenizer(folder: Location, base: Location, rows: int | None) -> Iterator[Finding]:
    """Differences from the base's tokenizer; ``rows``: how many the embedding has."""
    ours, theirs = tokenizer_files(folder), tokenizer_files(base)
    if not ours.kinds:
        if theirs.kinds:
            what = "no tokenizer to compare; a merge takes the base's"
            yield Finding("note", "files", what, next(iter(theirs.kinds.values())))
        return
    kind, file = next(iter(ours.kinds.items()))
    try:
        if kind in theirs.kinds and same_content(folder / file, base / theirs.kinds[kind]):
            yield from _vocabularies(compare_files(ours, theirs), file)
        else:
            yield from _rows(ours.vocabulary(kind), rows, file)
            if not theirs.kinds:
                what = "the base has no tokenizer to compare with"
                yield Finding("note", "files", what, file)
                return
            yield from _vocabularies(compare_files(ours, theirs), file)
            if kind == TOKENIZER and kind in theirs.kinds:
                yield from _splitting(folder / file, base / file)
        yield from _special(folder, base)
    except CheckpointError as error:
        yield Finding("unfit", "files", str(error), file)


def _rows(vocabulary: Mapping[str, int], rows: int | None, file: str) -> Iterator[Finding]:
    beyond = [token for token, index in vocabulary.items() if rows and index >= rows]
    if beyond:
        what = f"tokens without a row in the embedding of {rows}: {_shown(beyond)}"
        yield Finding("unfit", "files", what, file)


def _vocabularies(found: Differences, file: str) -> Iterator[Finding]:
    if found.moved:
        token, here, there = found.moved[0]
        what = (
            f"{amount(len(found.moved), 'token has', 'tokens have')} another id ({show(token)}: "
            f"{here} here, {there} in the base), so a merge would mix the rows of different tokens"
        )
        yield Finding("unfit", "files", what, file)
    for severity, renamed in (("unfit", found.exchanged), ("warning", found.filled)):
        if renamed:
            pairs = [f"{show(one)} for {show(two)}" for _, one, two in renamed[:SHOWN]]
            what = f"ids with another token: {listing(pairs, len(renamed))}"
            yield Finding(severity, "files", what, file)  # type: ignore[arg-type]
    if found.added:
        what = amount(len(found.added), "token", "tokens")
        what = f"{what} that the base has not: {_shown([token for token, _ in found.added])}"
        yield Finding("warning", "files", what, file)
    if found.missing:
        what = amount(
            len(found.missing), "token of the base is missing", "tokens of the base are missing"
        )
        what = f"{what}: {_shown([token for token, _ in found.missing])}"
        yield Finding("warning", "files", what, file)


def _splitting(file: Location, base: Location) -> Iterator[Finding]:
    ours, theirs = read_json_file(file, LIMIT), read_json_file(base, LIMIT)
    parts = [part for part in _PARTS if ours.get(part) != theirs.get(part)]
    if _merges(ours) != _merges(theirs):
        parts.append("merges")
    if parts:
        what = f"{', '.join(parts)} differ from the base's: the same text becomes other tokens"
        yield Finding("warning", "files", what, TOKENIZER)


def _merges(tokenizer: Mapping[str, Any]) -> object:
    """The merges as pairs: files of older versions write each as one text."""
    merges = tokenizer["model"].get("merges")
    if not isinstance(merges, list):
        return merges
    return [each.split(" ") if isinstance(each, str) else each for each in merges]


def _special(folder: Location, base: Location) -> Iterator[Finding]:
    ours, theirs = (read_settings(place / TOKENIZER_CONFIG) for place in (folder, base))
    for key, one, two in special_differences(ours, theirs):
        what = f"{key} is {show(one)}, the base's {show(two)}"
        yield Finding("warning", "files", what, TOKENIZER_CONFIG)


def _shown(tokens: list[str]) -> str:
    return listing([show(token) for token in tokens[:SHOWN]], len(tokens))
