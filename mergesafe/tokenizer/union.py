"""A tokenizer with the tokens of several: ids, and the tokenizer.json that gives them.

Tokens of the first keep their ids; those of the others follow in the order of the models and of
their ids. Text is cut as the first tokenizer does: its normalizer, pre-tokenizer, decoder and
post-processor are kept, merges of byte-pair encoding that make a new token come after its own, and
pieces of Unigram bring their scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any, Final

import msgspec

from mergesafe.checkpoint.places.location import Location
from mergesafe.errors import CheckpointError
from mergesafe.strict_json import check_depth
from mergesafe.tokenizer.token_bytes import kinds_of
from mergesafe.tokenizer.vocabulary import TOKENIZER, read_bounded
from mergesafe.untrusted import show

#: Kinds of models whose vocabulary can be extended.
_KINDS: Final = ("BPE", "Unigram", "WordPiece", "WordLevel")
#: The flags of an added token.
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")
#: Name of the rules that spell bytes as letters.
_BYTES: Final = "ByteLevel"


@dataclass(frozen=True)
class Contribution:
    """A model's tokenizer.json, and the tokens that it adds to the first one's."""

    model: str
    file: Location
    tokens: frozenset[str]


def union_vocabulary(
    first: Mapping[str, int], others: Iterable[tuple[Mapping[str, int], int | None]]
) -> tuple[dict[str, int], list[frozenset[str]]]:
    """Token -> id of all, and what each of ``others`` adds.

    ``others``: a vocabulary, and how many rows the model's embedding has: tokens beyond are left
    out. ``first`` keeps its ids; new ids begin behind its largest.
    """
    found = dict(first)
    after = max(first.values(), default=-1) + 1
    added = []
    for vocabulary, rows in others:
        new = [token for token in vocabulary if token not in found]
        if rows is not None:
            new = [token for token in new if vocabulary[token] < rows]
        new.sort(key=vocabulary.__getitem__)
        found.update(zip(new, count(after), strict=False))
        after += len(new)
        added.append(frozenset(new))
    return found, added


@dataclass(frozen=True)
class _Form:
    """What of a tokenizer.json says how it spells and cuts."""

    type: str
    pre_tokenizer: object
    decoder: object


class _Content(msgspec.Struct):
    content: str


class _AddedTokens(msgspec.Struct):
    added_tokens: list[_Content] | None = None


def check_union(first: Location, model: str, others: Sequence[Contribution]) -> list[str]:
    """Notes about tokenizers that cut text in different ways.

    Raises:
        CheckpointError: their tokens cannot be in one tokenizer; says why, and what to do.
    """
    ours = _form(first, model)
    notes = []
    for each in others:
        theirs = _form(each.file, each.model)
        problem = None
        if ours.type != theirs.type:
            problem = (
                f"{model} has a {ours.type} tokenizer and {each.model} a {theirs.type} tokenizer"
            )
        elif _spells_bytes(ours) != _spells_bytes(theirs):
            byte, other = (model, each.model) if _spells_bytes(ours) else (each.model, model)
            problem = f"{byte} spells tokens as bytes (ByteLevel), {other} as text"
        if problem is not None:
            raise CheckpointError(
                f"{each.file}: the {len(each.tokens):,} tokens that only {each.model} has cannot "
                f"be added to the tokenizer of {model}: {problem}, so they would never be found in "
                "a text. Use 'tokenizer_source: base' or name the model whose tokenizer the output "
                "takes; rows of tokens that both have are aligned all the same"
            )
        if ours.pre_tokenizer != theirs.pre_tokenizer:
            notes.append(
                f"{each.model} cuts text in another way before it looks for tokens (pre_tokenizer) "
                f"than {model}, whose way the output takes: some of its tokens may be found more "
                "rarely"
            )
    return notes


def adds_ordinary(contribution: Contribution) -> bool:
    """Whether words or pieces are among the tokens that a model adds, and not added tokens alone.

    Raises:
        CheckpointError: its tokenizer.json cannot be read.
    """
    try:
        found = msgspec.json.decode(read_bounded(contribution.file), type=_AddedTokens)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _unreadable(contribution.file, error) from None
    return not contribution.tokens <= {each.content for each in found.added_tokens or ()}


def _form(file: Location, model: str) -> _Form:
    """All that a writer of the file would fail on is found here, before anything is merged."""
    try:
        whole = msgspec.json.decode(read_bounded(file), type=dict[str, msgspec.Raw])
        inner = msgspec.json.decode(whole.pop("model"), type=dict[str, msgspec.Raw])
        _check_merges(inner.pop("merges", None))
        inner.pop("vocab", None)  # which has been read
        rules = {key: msgspec.json.decode(each) for key, each in whole.items()}
        kind = msgspec.json.decode(inner.pop("type", b"null"), type=str | None) or "BPE"
        settings = [msgspec.json.decode(each) for each in inner.values()]
        check_depth([*rules.values(), *settings])
    except (msgspec.MsgspecError, ValueError, KeyError, RecursionError) as error:
        raise _unreadable(file, error) from None
    if kind not in _KINDS:
        raise CheckpointError(
            f"{file}: {model} has a tokenizer of the kind {show(kind)}; tokens can be "
            f"added to {', '.join(_KINDS)}. Use 'tokenizer_source: base' or name a model"
        )
    return _Form(kind, rules.get("pre_tokenizer"), rules.get("decoder"))


def _check_merges(data: msgspec.Raw | None) -> None:
    """Of every merge that it has two parts, in C: there are hundreds of thousands."""
    merges = msgspec.json.decode(data or b"null", type=list[str | tuple[str, str]] | None)
    spelt = (merge for merge in merges or () if merge.__class__ is str)
    wrong = {*map(str.count, spelt, repeat(" "))} - {1}
    if wrong:
        raise ValueError(f"a merge of {min(wrong) + 1} parts")


def _spells_bytes(form: _Form) -> bool:
    return _BYTES in kinds_of([form.pre_tokenizer, form.decoder])


def union_tokenizer(
    first: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    others: Sequence[tuple[Mapping[str, Any], frozenset[str]]],
) -> dict[str, Any]:
    """The tokenizer.json of ``first`` with the ids of ``vocabulary``.

    ``others``: parsed files with the tokens that each adds; tokens of nobody become added tokens.
    Every token stands in the model's vocabulary, so that its id does not depend on the order in
    which tokens are added.
    """
    added = _added_tokens(first, vocabulary, others)
    model = dict(first["model"])
    if isinstance(model["vocab"], list):
        model["vocab"] = _pieces(model["vocab"], vocabulary, others)
    else:
        model["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    if model.get("merges") is not None:
        model["merges"] = _merges(model["merges"], vocabulary, others)
    return {**first, "added_tokens": added, "model": model}


def _added_tokens(
    first: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    others: Sequence[tuple[Mapping[str, Any], frozenset[str]]],
) -> list[dict[str, Any]]:
    """Added tokens of all; where two give one other flags, the first counts.

    An ordinary token of one model that is special in another is special: it must not be cut.
    """
    found = {each["content"]: dict(each) for each in first.get("added_tokens") or ()}
    ordinary = _contents(first["model"])
    for tokenizer, new in others:
        ordinary |= _contents(tokenizer["model"])
        for each in tokenizer.get("added_tokens") or ():
            token = each["content"]
            wanted = token in new or each.get("special")
            if token in vocabulary and token not in found and wanted:
                found[token] = dict(each)
    for token in vocabulary:
        if token not in ordinary and token not in found:
            found[token] = {"content": token, **dict.fromkeys(_FLAGS, False), "normalized": True}
    for token, each in found.items():
        each["id"] = vocabulary[token]
    order = sorted(found.values(), key=lambda each: each["id"])
    return [{"id": each["id"], **{k: v for k, v in each.items() if k != "id"}} for each in order]


def _contents(model: Mapping[str, Any]) -> set[str]:
    vocab = model["vocab"]
    return {token for token, _ in vocab} if isinstance(vocab, list) else set(vocab)


def _pieces(
    first: Sequence[tuple[str, float]],
    vocabulary: Mapping[str, int],
    others: Sequence[tuple[Mapping[str, Any], frozenset[str]]],
) -> list[list[Any]]:
    """Pieces of Unigram by id. Those without a score have the lowest: a text is cut into them only
    where added tokens are looked for.
    """
    scores = dict(first)
    for tokenizer, new in others:
        scores.update((t, score) for t, score in tokenizer["model"]["vocab"] if t in new)
    lowest = min(scores.values(), default=0.0)
    by_id = {index: token for token, index in vocabulary.items()}
    found = []
    for index in range(max(by_id, default=-1) + 1):
        token = by_id.get(index, f"<no token {index}>")
        found.append([token, scores.get(token, lowest)])
    return found


def _merges(
    first: Sequence[Any],
    vocabulary: Mapping[str, int],
    others: Sequence[tuple[Mapping[str, Any], frozenset[str]]],
) -> list[Any]:
    """Merges of the first, then those of the others that make a token which they add.

    Only these are taken apart: a tokenizer has hundreds of thousands of merges.
    """
    found: dict[tuple[str, str], None] = {}
    for tokenizer, new in others:
        for pair in _making(_alike(tokenizer["model"].get("merges") or ()), new):
            if pair[0] in vocabulary and pair[1] in vocabulary:
                found[pair] = None
    ours = _alike(first)
    if found:
        for pair in _making(ours, frozenset(map("".join, found))):
            found.pop(pair, None)
    pairs: Iterable[Any] = found if _is_text(ours) else (*ours, *found)
    if not _is_text(first) or any(" " in part for pair in pairs for part in pair):
        return [[*_pair(merge)] for merge in (*ours, *found)]
    return [*(ours if _is_text(ours) else map(" ".join, ours)), *map(" ".join, found)]


def _is_text(merges: Sequence[Any]) -> bool:
    """Whether the first merge, if there is one, is written as text and not as a pair."""
    return not merges or isinstance(merges[0], str)


def _alike(merges: Sequence[Any]) -> Sequence[Any]:
    """All as text, or all as pairs."""
    kinds = {*map(type, merges)}
    return merges if len(kinds) <= 1 else [_pair(merge) for merge in merges]


def _making(merges: Sequence[Any], tokens: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Of merges that are written alike those that make one of ``tokens``."""
    spelt: Iterable[str] = map("".join, merges)
    if _is_text(merges):
        spelt = map(str.replace, merges, repeat(" "), repeat(""))
    for merge, token in zip(merges, spelt, strict=True):
        if token in tokens:
            yield _pair(merge)


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def with_added_decoder(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with the added tokens of ``tokenizer``, where it lists any."""
    if "added_tokens_decoder" not in config:
        return dict(config)
    listed = {
        str(each["id"]): {
            "content": each["content"],
            **{flag: bool(each.get(flag, False)) for flag in _FLAGS},
        }
        for each in tokenizer["added_tokens"]
    }
    return {**config, "added_tokens_decoder": listed}


def parse_tokenizer(file: Location) -> dict[str, Any]:
    """A tokenizer.json.

    Raises:
        CheckpointError: it cannot be read, or is none.
    """
    try:
        found = msgspec.json.decode(read_bounded(file))
        if isinstance(found["model"]["vocab"], dict | list):
            return dict(found)
        raise ValueError("its vocabulary is neither an object nor a list")
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Location, error: Exception) -> CheckpointError:
    why = f"it lacks {error}" if isinstance(error, KeyError) else show(str(error))
    return CheckpointError(
        f"{file}: no {TOKENIZER} that can be read ({why}). Repair the file, or use that of the "
        "model's publisher."
    )
