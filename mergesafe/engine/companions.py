"""What lies beside the weights of the output, where it comes from, and what stays behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mergesafe.checkpoint.carry import (
    TEMPLATE_FOLDER,
    TOKENIZER_FILES,
    companions,
    is_vocabulary,
    missing_companions,
)
from mergesafe.checkpoint.leftover import unexpected
from mergesafe.checkpoint.location import Location, at, same_content
from mergesafe.checkpoint.model import CONFIG_NAME
from mergesafe.checkpoint.modules import WEIGHTS_SUFFIX, module_problems
from mergesafe.engine.sources import Model
from mergesafe.errors import CheckpointError

#: Files that a warning names before it only counts.
_SHOWN = 5


def folders_of(model: Model) -> tuple[Location, ...]:
    """Where the files of the model lie: its adapter's folder first."""
    own = () if model.adapter is None else (model.adapter.path,)
    return (*own, model.checkpoint.path)


def companions_of(reference: Model, tokenizer: Model) -> list[tuple[Location, str]]:
    """The files that are copied from the two models, and their names in the output.

    Raises:
        CheckpointError: a folder cannot be listed.
    """
    return list(companions(folders_of(reference), folders_of(tokenizer)))


def companion_warnings(
    reference: Model, tokenizer: Model, models: Sequence[Model]
) -> Iterator[str]:
    """What the output lacks or takes from one model alone.

    Raises:
        CheckpointError: a folder cannot be listed.
    """
    carried = companions_of(reference, tokenizer)
    names = [name for _, name in carried]
    config, place = reference.checkpoint.config, reference.checkpoint.path
    yield from missing_companions(config, place, names, tokenizer.checkpoint.path)
    for folder in folders_of(reference):
        yield from module_problems(folder)
        left = _left_behind(folder, reference, names)
        if left:
            more = f" and {len(left) - _SHOWN:,} more" if len(left) > _SHOWN else ""
            yield (
                f"{', '.join(left[:_SHOWN])}{more} in {folder} "
                f"{'is' if len(left) == 1 else 'are'} not carried over; copy what the merged model "
                "needs beside its weights"
            )
    yield from _weights_taken(reference, models, carried)


def _left_behind(folder: Location, reference: Model, carried: list[str]) -> list[str]:
    if not at(folder).is_dir():
        return []
    try:
        listed = at(folder).names() or []
    except OSError:
        return []
    # The tokenizer may be another model's.
    known = [CONFIG_NAME, TEMPLATE_FOLDER, *TOKENIZER_FILES, *filter(is_vocabulary, listed)]
    known += [shard.name for shard in reference.checkpoint.shards]
    names = unexpected(listed, [*carried, *known])
    return [f"{name}/" if at(folder / name).is_dir() else name for name in names]


def _weights_taken(
    reference: Model, models: Sequence[Model], carried: list[tuple[Location, str]]
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
            except CheckpointError:
                same = False
            if not same:
                others.append(model.text)
        if others:
            yield (
                f"{name} is copied from {reference.text}, not merged: that of {', '.join(others)} "
                "holds other weights"
            )
