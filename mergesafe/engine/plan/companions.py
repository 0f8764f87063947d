"""What lies beside the weights of the output, where it comes from, and what stays behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergesafe.checkpoint.format.model import CONFIG_NAME
from mergesafe.checkpoint.format.modules import WEIGHTS_SUFFIX, module_problems
from mergesafe.checkpoint.output.companions import (
    TEMPLATE_FOLDER,
    TOKENIZER_FILES,
    check_companions,
    companions,
    is_template,
    is_vocabulary,
    missing_companions,
)
from mergesafe.checkpoint.output.leftover import unexpected
from mergesafe.checkpoint.places.location import Location, at, in_hub_cache, same_content
from mergesafe.checkpoint.places.made import is_made
from mergesafe.checkpoint.places.within import check_within
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.outline.sources import Model

#: Files that a warning names before it only counts.
_SHOWN = 5


def folders_of(model: Model) -> tuple[Location, ...]:
    """Where the files of the model lie: its adapter's folder first."""
    own = () if model.adapter is None else (model.adapter.path,)
    if model.document is not None:
        return (*own, *folders_of(model.document.reference))
    return (*own, model.checkpoint.path)


def tokenizer_folders_of(model: Model) -> tuple[Location, ...]:
    """Where the files of the model's tokenizer lie: its adapter's folder first."""
    if model.document is None:
        return folders_of(model)
    own = () if model.adapter is None else (model.adapter.path,)
    made = model.document.tokenizer_folder
    return (*own, *(tokenizer_folders_of(model.document.tokenizer) if made is None else (made,)))


def stored_reference(model: Model) -> Model:
    """The model whose files the model has: itself, unless a document of the recipe makes it."""
    return model if model.document is None else stored_reference(model.document.reference)


def _stored_tokenizer(model: Model) -> Model:
    return model if model.document is None else _stored_tokenizer(model.document.tokenizer)


def companions_of(reference: Model, tokenizer: Model) -> list[tuple[Location, str]]:
    """The files that are copied from the two models, and their names in the output.

    Raises:
        CheckpointError: a folder cannot be listed.
    """
    return list(companions(folders_of(reference), tokenizer_folders_of(tokenizer)))


@dataclass(frozen=True)
class CompanionWarnings:
    """What the output lacks or takes from one model alone. ``passing``: those of ``texts`` that a
    listing of the Hub decides. Its cache holds fewer files, so card and manifest leave them out.
    """

    texts: tuple[str, ...]
    passing: tuple[str, ...]


def companion_warnings(
    reference: Model,
    tokenizer: Model,
    models: Sequence[Model],
    carried: Sequence[tuple[Location, str]],
) -> CompanionWarnings:
    """Look at what is copied, by :func:`companions_of`, and at what else lies there.

    Raises:
        CheckpointError: a folder cannot be listed, or a file that is copied would keep the output
            from loading.
    """
    reference, tokenizer = stored_reference(reference), _stored_tokenizer(tokenizer)
    if is_made(reference.checkpoint.path):  # a model in memory: nothing lies beside it
        return CompanionWarnings((), ())
    _check_config(reference)
    check_companions(carried)
    names = [name for _, name in carried]
    config, place = reference.checkpoint.config, reference.checkpoint.path
    texts = [*missing_companions(config, place, names, tokenizer.checkpoint.path)]
    passing: list[str] = []
    for folder in folders_of(reference):
        found = [*module_problems(folder), *_left_warning(folder, reference, tokenizer, names)]
        texts += found
        if not isinstance(folder, Path) or in_hub_cache(folder):
            passing += found
    texts += _weights_taken(reference, models, carried)
    return CompanionWarnings(tuple(texts), tuple(passing))


def _check_config(reference: Model) -> None:
    """The output's config.json is made of it, which may be a link to other settings."""
    folder = reference.checkpoint.path
    if isinstance(folder, Path) and reference.checkpoint.config:
        check_within(folder, folder / CONFIG_NAME)


def _left_warning(
    folder: Location, reference: Model, tokenizer: Model, carried: list[str]
) -> Iterator[str]:
    left = _left_behind(folder, reference, tokenizer, carried)
    if left:
        more = f" and {len(left) - _SHOWN:,} more" if len(left) > _SHOWN else ""
        yield (
            f"{', '.join(left[:_SHOWN])}{more} in {folder} "
            f"{'is' if len(left) == 1 else 'are'} not carried over; copy what the merged model "
            "needs beside its weights"
        )


def _left_behind(
    folder: Location, reference: Model, tokenizer: Model, carried: list[str]
) -> list[str]:
    if not at(folder).is_dir():
        return []
    listed = at(folder).names() or []
    known = [CONFIG_NAME, TEMPLATE_FOLDER, *TOKENIZER_FILES, *filter(is_vocabulary, listed)]
    known += [shard.name for shard in reference.checkpoint.shards]
    names = set(unexpected(listed, [*carried, *known]))
    # The tokenizer may be another model's. An adapter's is left where it has no vocabulary.
    if tokenizer is reference and folder != reference.checkpoint.path:
        names |= {name for name in _bare(listed) if not _as_in_base(name, reference)}
    return [f"{name}/" if at(folder / name).is_dir() else name for name in sorted(names)]


def _bare(listed: Sequence[str]) -> list[str]:
    """Files of a tokenizer without its vocabulary, which mean nothing by themselves."""
    if any(map(is_vocabulary, listed)):
        return []
    return [name for name in listed if name in TOKENIZER_FILES and not is_template(name)]


def _as_in_base(name: str, model: Model) -> bool:
    """Whether the file of the adapter says what that of its base does."""
    own, base = (folder / name for folder in folders_of(model))
    try:
        return at(base).exists() and same_content(own, base)
    except UnreadableError:
        raise
    except CheckpointError:
        return False


def _weights_taken(
    reference: Model, models: Sequence[Model], carried: Sequence[tuple[Location, str]]
) -> Iterator[str]:
    """Weights beside the model are copied from one parent: those of others may differ."""
    weights = [(path, name) for path, name in carried if name.endswith(WEIGHTS_SUFFIX)]
    for path, name in weights:
        others = []
        for model in models:
            file = model.checkpoint.path / name
            if not at(model.checkpoint.path).is_dir() or file == path or not at(file).exists():
                continue
            try:
                same = same_content(path, file)
            except UnreadableError:
                raise
            except CheckpointError:
                same = False
            if not same:
                others.append(model.text)
        if others:
            yield (
                f"{name} is copied from {reference.text}, not merged: that of {', '.join(others)} "
                "holds other weights"
            )
