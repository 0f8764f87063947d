"""Carry a checkpoint's companions over to the output: configuration, tokenizer, templates.

Only files on a fixed list are carried, so code (``.py``), pickles and other weights never are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, Final

from mergesafe.checkpoint._parse import reason, show
from mergesafe.checkpoint.location import Location, at
from mergesafe.checkpoint.model import CONFIG_NAME, Checkpoint
from mergesafe.checkpoint.output import OutputFolder
from mergesafe.errors import CheckpointError

GENERATION_NAME: Final = "generation_config.json"
MODEL_FILES: Final = (GENERATION_NAME, "preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
#: Each is a tokenizer's vocabulary; the other files only add to one.
VOCABULARIES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
TOKENIZER_SUFFIX: Final = ".tiktoken"
TEMPLATE_FOLDER: Final = "additional_chat_templates"
TEMPLATE_SUFFIX: Final = ".jinja"


def carry_over(
    folder: OutputFolder,
    source: Checkpoint,
    *,
    config: dict[str, Any],
    tokenizer: Checkpoint | None = None,
    generation: dict[str, Any] | None = None,
) -> list[str]:
    """Write ``config`` as ``config.json`` (its keys in their order) and copy the companions.

    ``generation``: written as ``generation_config.json`` in place of the source's.

    The tokenizer and its chat templates come from ``tokenizer`` where given, else from
    ``source``. A source that is a single file has no companions. Returns the names written.

    Raises:
        CheckpointError: a companion cannot be read.
        OutputError: it cannot be written.
    """
    names = []
    if config:
        folder.add_file(CONFIG_NAME, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        names.append(CONFIG_NAME)
    if generation is not None:
        text = json.dumps(generation, indent=2, ensure_ascii=False)
        folder.add_file(GENERATION_NAME, text + "\n")
        names.append(GENERATION_NAME)
    for path, name in companions(source, tokenizer):
        if name in names:
            continue
        folder.copy_file(path, name)
        names.append(name)
    return names


def companions(source: Checkpoint, tokenizer: Checkpoint | None) -> Iterator[tuple[Location, str]]:
    """The files that :func:`carry_over` copies, and their names in the output."""
    yield from _model_files(source.path)
    yield from tokenizer_companions((tokenizer or source).path)


def missing_companions(source: Checkpoint, tokenizer: Checkpoint) -> Iterator[str]:
    """What to tell the user if the output will lack what it takes to load it."""
    if not source.config:
        yield (
            f"the merged model will have no {CONFIG_NAME}, since {source.path} has none; it cannot "
            "be loaded without: copy one beside the weights, or name a folder that has one"
        )
    names = [name for _, name in companions(source, tokenizer)]
    if not any(name in VOCABULARIES or name.endswith(TOKENIZER_SUFFIX) for name in names):
        yield (
            f"the merged model will have no tokenizer, since {tokenizer.path} has none; copy one "
            "beside the weights, or name a model that has one as tokenizer_source"
        )


def remote_code_warning(config: dict[str, Any]) -> str | None:
    """What to tell the user if ``config`` names code of the repository, which is not carried."""
    auto_map = config.get("auto_map")
    if not auto_map:
        return None
    return (
        f"config.json names remote code (auto_map: {show(auto_map)}). mergesafe neither runs nor "
        "copies code, so the merged model needs the original's .py files, after you have read them."
    )


def _model_files(path: Location) -> Iterator[tuple[Location, str]]:
    yield from _present(path, MODEL_FILES)


def tokenizer_companions(path: Location) -> Iterator[tuple[Location, str]]:
    """The files of the folder's tokenizer and its chat templates, and their names in the output."""
    yield from _present(path, TOKENIZER_FILES)
    yield from ((found, found.name) for found in _listed(path, TOKENIZER_SUFFIX))
    for found in _listed(path / TEMPLATE_FOLDER, TEMPLATE_SUFFIX):
        yield found, f"{TEMPLATE_FOLDER}/{found.name}"


def _present(path: Location, names: Sequence[str]) -> Iterator[tuple[Location, str]]:
    if at(path).is_dir():
        # present, not exists: a dangling link is an incomplete download and must fail, not be
        # skipped.
        yield from ((path / name, name) for name in names if at(path / name).present())


def _listed(folder: Location, suffix: str) -> list[Location]:
    """Files of ``folder`` with this suffix, in order of name; none if it has no listing."""
    if not at(folder).is_dir():
        return []
    try:
        names = at(folder).names() or []
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot list the folder ({reason(error)}).") from error
    return [folder / name for name in sorted(names) if PurePath(name).suffix == suffix]
