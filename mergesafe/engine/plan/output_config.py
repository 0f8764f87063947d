"""The configuration of the merged model: the reference's, with what is written put in.

config.json is not copied. Sizes, types and ids of tokens follow the tensors and the tokenizer of
the output, on every level that names them (``text_config`` and the like).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mergesafe.architecture.cosmetic import TOKEN_IDS
from mergesafe.architecture.settings import is_level
from mergesafe.architecture.tying import TEXT_CONFIGS, text_config
from mergesafe.checkpoint.format.model import CONFIG_LIMIT, CONFIG_NAME
from mergesafe.checkpoint.output.companions import GENERATION_NAME
from mergesafe.checkpoint.places.location import at, in_hub_cache, read_json_file
from mergesafe.dtypes import CONFIG_NAMES
from mergesafe.engine.plan.companions import folders_of
from mergesafe.engine.plan.token_ids import tokenizer_of
from mergesafe.engine.plan.token_settings import TokenMove, follow, token_settings
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.outline.sources import Model
from mergesafe.tokenizer.special import content_of, special_settings
from mergesafe.tokenizer.vocabulary import added_tokens
from mergesafe.untrusted import show

#: Ids of tokens that are told of one by one.
_SHOWN_IDS: Final = 8
#: Tokens that every tokenizer has, each for its purpose: another tokenizer has others.
_ROLES: Final = TOKEN_IDS[:7]
#: What describes packed numbers, which the output's are not as the inputs' may be.
_PACKED: Final = ("quantization_config", "compression_config")
_DTYPES: Final = ("dtype", "torch_dtype")
#: How many rows embeddings for each layer have.
_LAYER_ROWS: Final = "vocab_size_per_layer_input"
Level = dict[str, Any]


@dataclass
class OutputConfig:
    """``config`` for config.json, and ``generation`` in place of the reference's
    generation_config.json where its ids do not fit the tokenizer.
    """

    config: Level
    generation: Level | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Of the warnings those by a file that is not fetched from the Hub (engine/plan/token_ids.py).
    passing: list[str] = field(default_factory=list)
    #: The ids at which the merged model stops.
    stops: tuple[str, ...] = ()


def output_config(
    config: Mapping[str, Any],
    reference: Model,
    tokenizer: Model,
    vocabulary: Mapping[str, int] | None,
    *,
    dtype: str | None,
    dtypes: Collection[str],
    rows: int | None,
    head_rows: int | None = None,
    layer_rows: int | None = None,
    quantization: Mapping[str, Any] | None = None,
    move: TokenMove | None = None,
) -> OutputConfig:
    """``config``, the reference's, for an output whose tensors are of ``dtypes``, most of them of
    ``dtype``, whose embedding has ``rows`` rows, whose head ``head_rows`` and whose embeddings for
    each layer ``layer_rows``, and which takes the tokenizer of ``tokenizer`` (``vocabulary``:
    token -> id, where it is known). ``quantization``: how matrices are stored, if not as plain
    numbers. ``move``: where the reference's tokens are under that tokenizer, if ids change.

    Raises:
        CheckpointError: ``config`` holds NaN, which is not JSON and no setting.
    """
    where = reference.checkpoint.path / CONFIG_NAME
    for path in _nans(config):
        raise CheckpointError(
            f"{where}: {path} is NaN, which is not JSON and no setting. Write the number that the "
            "model was trained with."
        )
    made = reference.document
    found = OutputConfig(dict(config), None if made is None else made.generation)
    if config:
        _set_packing(found, quantization)
        if dtype is not None:
            _set_dtype(found, CONFIG_NAMES[dtype], {CONFIG_NAMES[each] for each in dtypes})
        if rows is not None:
            _set_rows(found, rows, head_rows)
        if layer_rows is not None:
            _set_layer_rows(found, layer_rows)
    if tokenizer is not reference:
        _follow_tokenizer(found, reference, tokenizer)
    lost = _follow_tokens(found, reference, tokenizer, move)
    generation = found.generation
    if generation is None:
        generation = _generation(reference) or {}
    _check_ids(found, generation, rows, lost)
    told = [ids.get("eos_token_id") for ids in (generation, _ids(found.config))]
    listed = [each for ids in told for each in (ids if isinstance(ids, list) else [ids])]
    found.stops = tuple(dict.fromkeys(show(each) for each in listed if each is not None))
    _check_end(found, tokenizer, vocabulary or {})
    return found


def _levels(config: Level, change: Callable[[Level, str], Level], key: str = "") -> Level:
    """``config`` with ``change(level, its key)`` made on every level, outermost last."""
    inner = {
        name: _levels(value, change, name)
        for name, value in config.items()
        if is_level(name, value)
    }
    return change({**config, **inner}, key)


def _set_packing(found: OutputConfig, quantization: Mapping[str, Any] | None) -> None:
    def change(level: Level, key: str) -> Level:
        return {name: value for name, value in level.items() if name not in _PACKED}

    cleaned = _levels(found.config, change)
    if quantization is not None:
        cleaned["quantization_config"] = dict(quantization)
    elif cleaned != found.config:
        found.notes.append(
            f"{CONFIG_NAME} of the merged model has no quantization_config, since its tensors are "
            "plain numbers"
        )
    found.config = cleaned


def _set_dtype(found: OutputConfig, name: str, written: Collection[str]) -> None:
    """The type that most of the output has. A part that is no text keeps its type where some
    tensors are of it: towers may stay in float32.
    """

    def change(level: Level, key: str) -> Level:
        told = [each for each in _DTYPES if each in level]
        if key and key not in TEXT_CONFIGS:
            told = [each for each in told if _plain(level[each]) not in written]
        elif not key and not told:
            told = ["torch_dtype"]
        return {**level, **dict.fromkeys(told, name)}

    found.config = _levels(found.config, change)


def _plain(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _set_rows(found: OutputConfig, rows: int, head_rows: int | None) -> None:
    """``vocab_size`` of the text part, and beside it on top. A size that is padded to ``rows``
    stays as it is, and so does that of a head with fewer rows: Mllama's embedding has rows for
    images that its head has not.
    """
    changed: list[str] = []

    def change(level: Level, key: str) -> Level:
        size, multiple = level.get("vocab_size"), level.get("pad_vocab_size_multiple")
        if (key and key not in TEXT_CONFIGS) or not isinstance(size, int) or size == rows:
            return level
        if head_rows == size < rows or size + (level.get("additional_vocab_size") or 0) == rows:
            return level
        if isinstance(multiple, int) and multiple > 0 and -(-size // multiple) * multiple == rows:
            return level
        changed.append(f"{f'{key}.' if key else ''}vocab_size is {rows} in place of {size}")
        return {**level, "vocab_size": rows}

    found.config = _levels(found.config, change)
    if changed:
        found.notes.append(
            f"{CONFIG_NAME} of the merged model: {' and '.join(changed)}, as its embedding has "
            f"{rows:,} rows"
        )


def _set_layer_rows(found: OutputConfig, rows: int) -> None:
    """The rows of embeddings for each layer (Gemma 3n, Gemma 4), which are a table of their own."""

    def change(level: Level, key: str) -> Level:
        text = not key or key in TEXT_CONFIGS
        if not text or not isinstance(level.get(_LAYER_ROWS), int) or level[_LAYER_ROWS] == rows:
            return level
        found.notes.append(
            f"{CONFIG_NAME} of the merged model: {_LAYER_ROWS} is {rows} in place of "
            f"{level[_LAYER_ROWS]}, the rows of embed_tokens_per_layer.weight"
        )
        return {**level, _LAYER_ROWS: rows}

    found.config = _levels(found.config, change)


def _follow_tokenizer(found: OutputConfig, reference: Model, tokenizer: Model) -> None:
    """Ids of tokens as the model has them whose tokenizer the output takes."""
    source = tokenizer.checkpoint.config
    ids = _ids(source)
    if found.config and source:

        def change(level: Level, key: str) -> Level:
            if key and key not in TEXT_CONFIGS:
                return level
            told = [name for name in TOKEN_IDS if name in level or (not key and name in ids)]
            new: Level = {name: ids[name] for name in told if name in ids}
            # Each in the place that its key had.
            kept = {n: v for n, v in level.items() if n not in _ROLES or n in new}
            return {**kept, **new}

        config = _levels(found.config, change)
        _note_ids(found, CONFIG_NAME, _ids(found.config), _ids(config), tokenizer)
        found.config = config
    ours, theirs = _generation(reference), _generation(tokenizer)
    if ours is None and theirs is None:
        return
    wanted = {**ids, **{k: v for k, v in (theirs or {}).items() if k in TOKEN_IDS}}
    before = ours or {}
    after = {k: v for k, v in before.items() if k not in _ROLES or k in wanted}
    after |= {k: v for k, v in wanted.items() if k in before or k in (theirs or {})}
    if after != before:
        _note_ids(found, GENERATION_NAME, before, after, tokenizer)
        found.generation = after


def _follow_tokens(
    found: OutputConfig, reference: Model, tokenizer: Model, move: TokenMove | None
) -> Collection[str]:
    """Ids of other tokens, which the reference alone names, as that of a picture: each follows its
    token. The settings whose token is not there.
    """
    if move is None:
        return ()
    settled = {*_ROLES, *_ids(tokenizer.checkpoint.config)}
    followed = follow(found.config, move, settled)
    found.config = followed.config
    if followed.changed:
        found.notes.append(
            f"{CONFIG_NAME} of the merged model follows the tokens of {reference.text} to their "
            f"new ids: {', '.join(followed.changed)}"
        )
    found.warnings += [
        f"{path} in {CONFIG_NAME} of {reference.text} is {what}: it stays as it is, and "
        "means another token or none. Take a tokenizer that has the token; 'tokenizer_source: "
        "union' in a recipe keeps it"
        for path, what in followed.lost.items()
    ]
    if found.generation is not None:
        found.generation = follow(found.generation, move, settled).config
    return followed.lost


def _ids(config: Mapping[str, Any]) -> Level:
    """The ids of tokens that a configuration names, those of the text part over those on top."""
    both = {**config, **text_config(config)}
    return {key: both[key] for key in TOKEN_IDS if key in both}


def _note_ids(
    found: OutputConfig,
    name: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    tokenizer: Model,
) -> None:
    changed = [
        _change(key, before.get(key), after.get(key))
        for key in TOKEN_IDS
        if before.get(key) != after.get(key)
    ]
    if changed:
        found.notes.append(
            f"{name} of the merged model follows {tokenizer.text}, whose tokenizer it takes: "
            f"{', '.join(changed)}"
        )


def _change(key: str, before: object, after: object) -> str:
    if after is None:
        return f"no {key}, which was {show(before)}"
    if before is None:
        return f"{key} {show(after)}, where there was none"
    return f"{key} {show(after)} in place of {show(before)}"


def _check_end(found: OutputConfig, tokenizer: Model, vocabulary: Mapping[str, int]) -> None:
    """A tokenizer whose end of text does not end a generation is a warning, where its files tell
    the id of that token.
    """
    files = tokenizer_of(tokenizer)
    token = content_of(special_settings(files.folder).get("eos_token")) if files.kinds else None
    if not isinstance(token, str):
        return
    try:
        end = added_tokens(files.folder, files.names).get(token)
    except UnreadableError:
        raise
    except CheckpointError:
        end = None
    small = end is not None
    if end is None:
        end = vocabulary.get(token)
    known = found.stops
    if end is not None and known and str(end) not in known:
        found.warnings.append(
            f"the tokenizer of {tokenizer.text} ends a text with {show(token)}, whose id is {end}, "
            f"but the merged model stops at {', '.join(known[:_SHOWN_IDS])}"
            + (f" and {len(known) - _SHOWN_IDS:,} more" if len(known) > _SHOWN_IDS else "")
        )
        if not small and in_hub_cache(files.folder):
            found.passing.append(found.warnings[-1])


def _check_ids(
    found: OutputConfig, generation: Level, rows: int | None, told: Collection[str]
) -> None:
    """Ids that no row of the embedding belongs to are a warning, but for settings that are
    ``told`` of already.
    """
    if rows is None:
        return
    others = {k: v for k, v in token_settings(found.config) if k.split(".")[-1] not in TOKEN_IDS}
    ours = {k: v for k, v in {**_ids(found.config), **others}.items() if k not in told}
    for name, ids in ((CONFIG_NAME, ours), (GENERATION_NAME, _ids(generation))):
        for key, value in ids.items():
            listed = value if isinstance(value, list) else [value]
            beyond = [each for each in listed if isinstance(each, int) and each >= rows]
            for each in beyond[:_SHOWN_IDS]:
                found.warnings.append(
                    f"{name} of the merged model says {key} {show(each)}, but its embedding "
                    f"has {rows:,} rows"
                )
            if len(beyond) > _SHOWN_IDS:
                more = len(beyond) - _SHOWN_IDS
                found.warnings.append(
                    f"{name} of the merged model says {more:,} more ids of {key} that "
                    "the embedding has no rows for"
                )


def _generation(model: Model) -> Level | None:
    """generation_config.json, None where there is none that can be read: it is copied then."""
    if model.document is not None and model.document.generation is not None:
        return model.document.generation
    for folder in folders_of(model):
        file = folder / GENERATION_NAME
        if at(folder).is_dir() and at(file).exists():
            try:
                return read_json_file(file, CONFIG_LIMIT)
            except UnreadableError:
                raise
            except CheckpointError:
                return None
    return None


def _nans(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, float) and math.isnan(value):
        yield path
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _nans(each, f"{path}.{key}" if path else show(key)[1:-1])
    elif isinstance(value, list):
        for each in value:
            yield from _nans(each, path)
