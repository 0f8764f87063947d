"""Carry a checkpoint's companions over to the output: configuration, tokenizer, templates.

Only files on a fixed list are carried, so code (``.py``), pickles and other weights never are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Final

import msgspec

from mergesafe.checkpoint.format.model import CONFIG_LIMIT, CONFIG_NAME
from mergesafe.checkpoint.format.modules import MODULES_NAME, module_files
from mergesafe.checkpoint.output.folder import COPY_LIMIT, OutputFolder, too_large
from mergesafe.checkpoint.places.location import Location, at, open_regular
from mergesafe.checkpoint.places.seen import FileState
from mergesafe.checkpoint.places.within import check_within
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.untrusted import is_text, reason, show

GENERATION_NAME: Final = "generation_config.json"
MODEL_FILES: Final = (
    GENERATION_NAME,
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "audio_preprocessor_config.json",
    "audio_tokenizer_config.json",
    # Mistral's, which its chat template does not hold
    "SYSTEM_PROMPT.txt",
    # sentence-transformers
    MODULES_NAME,
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    # Licences that allow merging ask for a copy of themselves.
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
    "NOTICE.md",
    "USE_POLICY.md",
)
#: Other names of them; whoever has no listing of a folder finds those above.
_LICENCE: Final = re.compile(
    r"(?:[\w.-]*[-_ ])?(?:licen[cs]es?|notices?|(?:acceptable[-_ ])?use[-_ ]policy)"
    r"(?:[-_ ](?:[\w -]|\.(?=\d))*?)?(?:\.(?:txt|md|rst|pdf))?",
    re.IGNORECASE,
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
    "sentencepiece.model",
    "spm_char.model",
    "prophetnet.tokenizer",
    "vocab-src.json",
    "tekken.json",
)
#: Small files that are copied as they are and that loading parses.
_OBJECTS: Final = (
    GENERATION_NAME, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
TEMPLATES: Final = ("chat_template.jinja", "chat_template.json")
TOKENIZER_FILES: Final = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "normalizer.json",
    # What some tokenizers have beside a vocabulary: Marian, FSMT, BERTweet, BARTpho, LUKE, RoCBert,
    # GPT-NeoX-Japanese, MyT5, and the vocabularies of older versions of Mistral's.
    "source.spm",
    "target.spm",
    "target_vocab.json",
    "vocab-tgt.json",
    "bpe.codes",
    "dict.txt",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
    "emoji.json",
    "byte_maps.json",
    *(f"tokenizer.model.v{version}" for version in ("1", "2", "3", "7", "7m1")),
    *TEMPLATES,
)
TOKENIZER_SUFFIX: Final = ".tiktoken"
TEMPLATE_FOLDER: Final = "additional_chat_templates"
TEMPLATE_SUFFIX: Final = ".jinja"
Companions = Iterator[tuple[Location, str]]


def carry_over(
    folder: OutputFolder,
    files: Iterable[tuple[Location, str]],
    *,
    config: dict[str, Any],
    config_name: str = CONFIG_NAME,
    generation: dict[str, Any] | None = None,
    states: Mapping[Location, FileState] = MappingProxyType({}),
    made: Mapping[str, bytes] = MappingProxyType({}),
) -> list[str]:
    """Write ``config`` as ``config_name`` (its keys in their order) and copy ``files``.

    ``files``: by :func:`companions`. ``generation``: written as ``generation_config.json`` in place
    of one of them. ``states``: what local files were, by :func:`states_of`. ``made``: further files
    by their names. Returns the names written.

    Raises:
        CheckpointError: a companion cannot be read, or has changed since.
        OutputError: it cannot be written.
    """
    written = {config_name: config or None, GENERATION_NAME: generation}
    names = [name for name, content in written.items() if content is not None]
    for name in names:
        text = json.dumps(written[name], indent=2, ensure_ascii=False)
        folder.add_file(name, text + "\n")
    for name, data in made.items():
        folder.add_file(name, data)
        names.append(name)
    for path, name in files:
        if name in names:
            continue
        if is_json(name) and not isinstance(path, Path):  # the plan did not fetch it
            folder.add_file(name, json_bytes(path, name))
        else:
            folder.copy_file(path, name, expected=states.get(path))
        names.append(name)
    return names


def companions(model: Sequence[Location], tokenizer: Sequence[Location]) -> Companions:
    """The files that :func:`carry_over` copies, and their names in the output.

    ``model``: the folders of the model whose configuration is taken, ``tokenizer``: of the one
    whose tokenizer is: an adapter's before its base's. The first folder that has a file gives it;
    an adapter's folder with a vocabulary gives the whole tokenizer, one without nothing of it but
    chat templates: its base's is the tokenizer that token ids are compared by. A checkpoint that is
    a single file has no companions.
    """
    yield from _first(_model_files(folder) for folder in model)
    whole = next((folder for folder in tokenizer if has_vocabulary(folder)), tokenizer[-1])
    before = tokenizer[: tokenizer.index(whole)]
    templates = (
        ((path, name) for path, name in tokenizer_companions(folder) if is_template(name))
        for folder in before
    )
    yield from _first((*templates, tokenizer_companions(whole)))


def states_of(files: Iterable[tuple[Location, str]]) -> dict[Location, FileState]:
    """What the local ones are now, where they can be looked at."""
    found: dict[Location, FileState] = {}
    for path, _ in files:
        if isinstance(path, Path):
            with suppress(OSError):
                found[path] = FileState.of(path.stat())
    return found


def check_companions(files: Iterable[tuple[Location, str]]) -> None:
    """Refuse files that are missing behind a link, that lie elsewhere, and those that would keep
    the output from loading: what transformers parses, but no one can.

    Raises:
        CheckpointError: names the file and what is wrong.
    """
    for path, name in files:
        if not is_text(name):
            raise CheckpointError(
                f"{path.parent}: the name of the file {show(name)} is not UTF-8, and no manifest "
                "can list it. Rename the file, or remove it if the model needs none."
            )
        if isinstance(path, Path):
            size = at(path).fingerprint()["size"]
            if size > COPY_LIMIT:
                raise CheckpointError(too_large(path))
            check_within(path.parents[name.count("/")], path)
        if name in _OBJECTS or (is_json(name) and isinstance(path, Path)):
            json_bytes(path, name)


def is_json(name: str) -> bool:
    return name.endswith(".json")


def json_bytes(path: Location, name: str) -> bytes:
    """The content of a companion that is JSON, checked.

    NaN is not JSON. Infinity is not, either, but stands in files in the wild and is read by Python.

    Raises:
        CheckpointError: it cannot be read, is too large, or anything else.
    """
    limit = CONFIG_LIMIT if name in _OBJECTS else COPY_LIMIT
    with open_regular(path) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise UnreadableError(f"{path}: cannot read ({reason(error)}).") from error
    problem = None
    try:
        _check_json(data)
    except UnicodeDecodeError:
        problem = "not UTF-8"
    except (ValueError, RecursionError):
        problem = "not JSON"
    if len(data) > limit:
        problem = f"larger than {limit:,} bytes"
    if problem is not None:
        raise CheckpointError(
            f"{path}: {problem}; expected JSON. The merged model would not load with "
            "it: repair the file, or remove it if the model needs none."
        )
    return data


def _check_json(data: bytes) -> None:
    text = data.decode()
    try:
        msgspec.json.decode(data, type=msgspec.Raw)  # a tokenizer of 30 MB takes 50 ms
    except msgspec.DecodeError:
        # as transformers reads it: a key may appear twice there, and half a surrogate pair
        json.loads(text, parse_constant=_constant)


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError(name)
    return float(name)


def has_vocabulary(folder: Location) -> bool:
    """Whether a tokenizer's vocabulary lies in the folder."""
    return any(is_vocabulary(name) for _, name in tokenizer_companions(folder))


def is_vocabulary(name: str) -> bool:
    """Whether a file of this name is a tokenizer's vocabulary."""
    return name in VOCABULARIES or name.endswith(TOKENIZER_SUFFIX)


def is_of_tokenizer(name: str) -> bool:
    """Whether a file of this name belongs to a tokenizer: its vocabulary, settings or templates."""
    return name in TOKENIZER_FILES or is_vocabulary(name) or is_template(name)


def is_template(name: str) -> bool:
    """Whether a tokenizer's file of this name holds a chat template and nothing else."""
    return name in TEMPLATES or name.startswith(f"{TEMPLATE_FOLDER}/")


def missing_companions(
    config: dict[str, Any], model: Location, names: Iterable[str], tokenizer: Location
) -> Iterator[str]:
    """What to tell the user if the output will lack what it takes to load it.

    ``names``: of what is carried; ``model`` and ``tokenizer``: where from.
    """
    if not config:
        yield (
            f"the merged model will have no {CONFIG_NAME}, since {model} has none; it cannot "
            "be loaded without: copy one beside the weights, or name a folder that has one"
        )
    if not any(is_vocabulary(name) for name in names):
        yield (
            f"the merged model will have no tokenizer, since {tokenizer} has none; copy one "
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


def _first(folders: Iterable[Companions]) -> Companions:
    """Of each name the first file."""
    seen: set[str] = set()
    for files in folders:
        for path, name in files:
            if name not in seen:
                seen.add(name)
                yield path, name


def _model_files(path: Location) -> Companions:
    yield from _present(path, MODEL_FILES)
    for name in sorted(at(path).names() or []) if at(path).is_dir() else ():
        if name not in MODEL_FILES and _LICENCE.fullmatch(name) and not at(path / name).is_dir():
            yield path / name, name
    yield from module_files(path)


def tokenizer_companions(path: Location) -> Companions:
    """The files of the folder's tokenizer and its chat templates, and their names in the output."""
    yield from _present(path, TOKENIZER_FILES)
    yield from ((found, found.name) for found in _listed(path, TOKENIZER_SUFFIX))
    for found in _listed(path / TEMPLATE_FOLDER, TEMPLATE_SUFFIX):
        yield found, f"{TEMPLATE_FOLDER}/{found.name}"


def _present(path: Location, names: Sequence[str]) -> Companions:
    if at(path).is_dir():
        # present, not exists: a dangling link is an incomplete download and must fail, not be
        # skipped.
        yield from ((path / name, name) for name in names if at(path / name).present())


def _listed(folder: Location, suffix: str) -> list[Location]:
    """Files of ``folder`` with this suffix, in order of name; none if it has no listing."""
    if not at(folder).is_dir():
        return []
    names = at(folder).names() or []
    return [folder / name for name in sorted(names) if PurePath(name).suffix == suffix]
