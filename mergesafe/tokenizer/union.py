"""A tokenizer with the tokens of several: ids, and the tokenizer.json that gives them.

Tokens of the first keep their ids; those of the others follow in the order of the models and of
their ids. Text is cut as the first tokenizer does: its normalizer, pre-tokenizer, decoder and
post-processor are kept, merges of byte-pair encoding that make a new token come after its own, and
pieces of Unigram bring their scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import msgspec

from mergesafe.checkpoint.places.location import Location
from mergesafe.errors import CheckpointError
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
        new = vocabulary.keys() - found.keys()
        if rows is not None:
            new = {token for token in new if vocabulary[token] < rows}
        found.update(zip(sorted(new, key=vocabulary.__getitem__), count(after), strict=False))
        after += len(new)
        added.append(frozenset(new))
    return found, added


class _Kind(msgspec.Struct):
    type: str | None = None
    merges: list[str | tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        for merge in self.merges or ():
            if isinstance(merge, str) and merge.count(" ") != 1:
                raise ValueError(f"a merge of {merge.count(' ') + 1} parts")


class _Form(msgspec.Struct):
    """What of a tokenizer.json says how it spells and cuts."""

    model: _Kind
    pre_tokenizer: Any = None
    decoder: Any = None


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
        if ours.model.type != theirs.model.type:
            problem = f"{model} has a {_named(ours)} and {each.model} a {_named(theirs)}"
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
    added = parse_tokenizer(contribution.file).get("added_tokens") or ()
    return not contribution.tokens <= {each["content"] for each in added}


def _form(file: Location, model: str) -> _Form:
    try:
        found = msgspec.json.decode(read_bounded(file), type=_Form)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise CheckpointError(f"{file}: no tokenizer that can be read. Repair the file.") from None
    if found.model.type is not None and found.model.type not in _KINDS:
        raise CheckpointError(
            f"{file}: {model} has a tokenizer of the kind {show(found.model.type)}; tokens can be "
            f"added to {', '.join(_KINDS)}. Use 'tokenizer_source: base' or name a model"
        )
    return found


def _named(form: _Form) -> str:
    return f"{form.model.type or 'BPE'} tokenizer"


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
    """Merges of the first, then those of the others that make a token which they add."""
    pairs = [_pair(merge) for merge in first]
    seen = set(pairs)
    for tokenizer, new in others:
        for merge in map(_pair, tokenizer["model"].get("merges") or ()):
            known = merge[0] in vocabulary and merge[1] in vocabulary
            if known and merge[0] + merge[1] in new and merge not in seen:
                seen.add(merge)
                pairs.append(merge)
    spaced = any(" " in part for pair in pairs for part in pair)
    if spaced or (first and not isinstance(first[0], str)):
        return [list(pair) for pair in pairs]
    return [" ".join(pair) for pair in pairs]


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
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise CheckpointError(f"{file}: no {TOKENIZER} that can be read. Repair the file.")
