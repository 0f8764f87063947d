"""Whether token ids mean the same in every model: embeddings and heads are merged row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mergesafe.checkpoint.places.location import Location, in_hub_cache
from mergesafe.checkpoint.places.made import is_made
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.outline.sources import Model
from mergesafe.tokenizer.alignment import TokenTable
from mergesafe.tokenizer.compare import (
    SHOWN,
    Differences,
    Files,
    compare_files,
    other_conflicts,
    tokenizer_files,
    tokens_shown,
)
from mergesafe.tokenizer.special import chat_template, special_differences, special_settings
from mergesafe.tokenizer.vocabulary import PLAIN_KINDS
from mergesafe.untrusted import show

#: What to do where the tokens of models differ.
_ALIGN: Final = (
    "Align the rows by token: 'tokenizer_source: union' in the recipe keeps the tokens of all "
    "models, 'tokenizer_source: base' those of the base"
)
_ALLOW = "--allow-token-mismatch"


@dataclass
class TokenCheck:
    """What was found: warnings, and notes of what only matters to who uses the merged model.

    ``vocabulary``: token -> id of the tokenizer that the output takes, None where its files do not
    tell. Those of the Hub are not fetched for it: ``passing`` are warnings by it that therefore
    only a run from the Hub's cache has, see :mod:`mergesafe.engine.plan.companions`.
    """

    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    vocabulary: Mapping[str, int] | None = None
    passing: list[str] = field(default_factory=list)


def tokenizer_of(model: Model) -> Files:
    """The files of the model's tokenizer: the adapter's where it brings a vocabulary, else its
    base's.
    """
    if model.adapter is not None:
        own = tokenizer_files(model.adapter.path)
        if own.kinds:
            return own
    if model.document is not None:
        made = model.document.tokenizer_folder
        return tokenizer_of(model.document.tokenizer) if made is None else tokenizer_files(made)
    return tokenizer_files(model.checkpoint.path)


def check_token_ids(
    carried: Model, models: Sequence[Model], *, allow: bool, table: TokenTable | None = None
) -> TokenCheck:
    """Compare the vocabularies of ``models`` with that of ``carried``, which the output takes.

    ``allow``: an id that means different tokens is a warning. ``table``: rows are aligned by these
    tokens, so that ids may differ. Vocabularies that cannot be compared
    are always one, and so are tokens of one model in the place of padding rows of another.

    Raises:
        CheckpointError: an id means different tokens in two models, or their embeddings differ in
            rows; names the tokens.
    """
    files: dict[str, Files] = {}
    for model in (carried, *models):
        files.setdefault(model.text, tokenizer_of(model))
    found = TokenCheck()
    if table is not None:
        found.vocabulary = table.vocabulary
        _special(found, carried, files, models)
        return found
    reference = next((m for m in (carried, *models) if files[m.text].kinds), None)
    if reference is None:
        return found  # nothing to compare: that the output lacks a tokenizer is told elsewhere
    found.vocabulary = _vocabulary(files[carried.text])
    if beyond := _beyond(carried, found.vocabulary or {}):
        found.warnings.append(beyond)
        if in_hub_cache(files[carried.text].folder):
            found.passing.append(beyond)
    theirs = files[reference.text]
    errors: list[CheckpointError] = []
    seen: dict[Location, Differences | CheckpointError] = {}
    for model in models:
        ours = files[model.text]
        if model.text == reference.text:
            continue
        if not ours.kinds:
            found.warnings.append(_incomparable(model, reference, "it has no tokenizer"))
            continue
        if ours.folder not in seen:
            seen[ours.folder] = _compared(ours, theirs)
        result = seen[ours.folder]
        if isinstance(result, CheckpointError):
            found.warnings.append(_incomparable(model, reference, str(result)))
            continue
        if problem := _sizes(model, reference, result, theirs):
            errors.append(CheckpointError(problem))
        elif result.conflict:
            told = _conflict(model, reference, result)
            if allow:
                found.warnings.append(told)
            else:
                errors.append(CheckpointError(f"{told}. {_advice(model, reference)}"))
        found.warnings += _one_sided(model, reference, result)
        found.warnings += [
            f"by {name}, {model.text} gives tokens other ids than {reference.text}, though by "
            f"{next(iter(ours.kinds.values()))} it does not: programs that read {name} see other "
            "tokens"
            for name in other_conflicts(ours, theirs)
            if not result.conflict
        ]
    if errors:
        raise CheckpointError.joined(errors)
    _special(found, reference, files, models)
    return found


def _vocabulary(files: Files) -> Mapping[str, int] | None:
    kind = next(iter(files.kinds), None)
    near = isinstance(files.folder, Path) or is_made(files.folder)
    if kind not in PLAIN_KINDS or not near:
        return None
    try:
        return files.vocabulary(kind)
    except UnreadableError:
        raise
    except CheckpointError:
        return None


def _beyond(model: Model, vocabulary: Mapping[str, int]) -> str | None:
    """What to say of tokens that no row of the embedding belongs to."""
    rows = _rows(model)
    beyond = tuple((t, index) for t, index in vocabulary.items() if rows and index >= rows)
    if rows is None or not beyond:
        return None
    return (
        f"the embedding of {model.text} has {rows:,} rows and none for {tokens_shown(beyond)} of "
        "its tokenizer, which the merged model takes: a text that holds such a token fails. Use "
        "models whose embeddings were resized to the tokenizer, or 'tokenizer_source: base' in the "
        "recipe, which makes rows for these tokens: those of a model that has them, else zeros"
    )


def _compared(ours: Files, theirs: Files) -> Differences | CheckpointError:
    try:
        return compare_files(ours, theirs)
    except UnreadableError:
        raise
    except CheckpointError as error:
        return error


def _incomparable(model: Model, reference: Model, why: str) -> str:
    return (
        f"the tokens of {model.text} could not be compared with those of {reference.text} ({why}); "
        "rows of the embedding are merged one by one, so check that both give every token the same "
        "id"
    )


def _rows(model: Model) -> int | None:
    embedding = model.embedding()
    return embedding.shape[0] if embedding is not None and embedding.shape else None


def _sizes(model: Model, reference: Model, found: Differences, tokenizer: Files) -> str | None:
    """What to say if the embeddings have different numbers of rows; ``tokenizer``: the reference's.

    None where no token can be named either: the shapes are refused elsewhere.
    """
    ours, theirs = _rows(model), _rows(reference)
    if ours is None or theirs is None or ours == theirs:
        return None
    text = (
        f"the embedding of {model.text} has {ours:,} rows, that of {reference.text} {theirs:,}, "
        "and the recipe does not say whose tokens the merged model has"
    )
    fewer = min(ours, theirs)
    alone = [
        f"only {owner.text} has {tokens_shown(tokens)}"
        for owner, tokens in ((model, found.added), (reference, found.missing))
        if tokens
    ]
    if found.conflict:
        alone.append(_conflict(model, reference, found))
    if not alone:
        try:
            vocabulary = tokenizer.vocabulary(next(iter(tokenizer.kinds)))
        except UnreadableError:
            raise
        except CheckpointError:
            return None
        beyond = tuple((t, index) for t, index in vocabulary.items() if index >= fewer)
        if not beyond:
            return f"{text}. Both have the same tokens and the rows beyond are padding. {_ALIGN}"
        lacking = model if ours == fewer else reference
        alone = [f"{lacking.text} has no rows for {tokens_shown(beyond)}"]
    return f"{text}: {'; '.join(alone)}. {_ALIGN}"


def _conflict(model: Model, reference: Model, found: Differences) -> str:
    parts = []
    if found.moved:
        named = [
            f"{show(token)} is {here} in {model.text} and {there} in {reference.text}"
            for token, here, there in found.moved
        ]
        parts.append(_some(named))
    if found.exchanged:
        named = [
            f"{index} is {show(here)} in {model.text} and {show(there)} in {reference.text}"
            for index, here, there in found.exchanged
        ]
        parts.append(_some(named))
    count = len(found.moved) + len(found.exchanged)
    return (
        f"{count:,} token id{' differs' if count == 1 else 's differ'} between {model.text} and "
        f"{reference.text}: {'; '.join(parts)}; merging row by row mixes the rows of different "
        "tokens"
    )


def _some(named: list[str]) -> str:
    more = len(named) - SHOWN
    return ", ".join(named[:SHOWN]) + (f", and {more:,} more" if more > 0 else "")


def _advice(model: Model, reference: Model) -> str:
    return (
        f"{_ALIGN}. If the ids of {model.text} and {reference.text} do mean the same, pass {_ALLOW}"
    )


def _one_sided(model: Model, reference: Model, found: Differences) -> Iterator[str]:
    for owner, other, tokens in (
        (model, reference, found.added),
        (reference, model, found.missing),
    ):
        rows = _rows(owner)
        beyond = tuple(each for each in tokens if rows is not None and each[1] >= rows)
        tokens = tuple(each for each in tokens if rows is None or each[1] < rows)
        if beyond:
            yield (
                f"only {owner.text} has the token{'' if len(beyond) == 1 else 's'} "
                f"{tokens_shown(beyond)}, for which its embedding of {rows:,} rows has no row"
            )
        if tokens:
            yield (
                f"only {owner.text} has the token{'' if len(tokens) == 1 else 's'} "
                f"{tokens_shown(tokens)}; the merge mixes their rows with rows of {other.text} "
                "that belong to no token, and the merged model knows the tokens of the tokenizer "
                "that it takes"
            )
    if found.filled:
        named = [
            f"{index} is {show(here)} in {model.text} and {show(there)} in {reference.text}"
            for index, here, there in found.filled
        ]
        yield (
            f"a reserved token of one model is in use in another: {_some(named)}; the merged model "
            "takes the names of the tokenizer that it takes"
        )


def _special(
    found: TokenCheck, reference: Model, files: dict[str, Files], models: Sequence[Model]
) -> None:
    """Special tokens that differ are a warning, chat templates that differ a note."""
    place = files[reference.text].folder
    theirs = special_settings(place)
    template = chat_template(place, theirs)
    done = {place}
    for model in models:
        folder = files[model.text].folder
        if folder in done or not files[model.text].kinds:
            continue
        done.add(folder)
        ours = special_settings(folder)
        for key, one, two in special_differences(ours, theirs):
            found.warnings.append(
                f"{key} is {show(one)} in {model.text} and {show(two)} in {reference.text}; the "
                f"merged model takes {show(two)}. 'tokenizer_source: {model.text}' takes the other"
            )
        own = chat_template(folder, ours)
        if own is not None and own != template:
            what = "has none" if template is None else "has another"
            found.notes.append(
                f"{model.text} has a chat template; {reference.text}, whose tokenizer the merged "
                f"model takes, {what}"
            )
