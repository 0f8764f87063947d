"""Folders of a sentence-transformers model that ``modules.json`` names: pooling, dense layers.

Such a model is a transformer and what follows it, each in a folder of its own with its settings
and sometimes weights. They are copied from one model, not merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Final

import msgspec

from mergesafe.checkpoint.format.model import CONFIG_LIMIT, PICKLE_SUFFIXES
from mergesafe.checkpoint.places.location import Location, at, open_regular
from mergesafe.errors import CheckpointError, UnreadableError
from mergesafe.untrusted import reason, show

MODULES_NAME: Final = "modules.json"
#: Files of a module that are copied: settings, vocabularies of bags of words, weights.
_SUFFIXES: Final = (".json", ".txt", ".safetensors")
WEIGHTS_SUFFIX: Final = ".safetensors"
_MOST: Final = 100
_PLAIN_FOLDER: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_PLAIN_FILE: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}")


class _Module(msgspec.Struct):
    path: str = ""


def module_files(folder: Location) -> Iterator[tuple[Location, str]]:
    """The files of the modules that ``modules.json`` in ``folder`` names, and their names in the
    output.

    Raises:
        CheckpointError: a folder cannot be listed.
    """
    for name in _folders(folder):
        for file in _files(folder / name):
            if PurePath(file).suffix.lower() in _SUFFIXES:
                yield folder / name / file, f"{name}/{file}"


def module_problems(folder: Location) -> Iterator[str]:
    """What of the modules is not copied, and why."""
    try:
        paths = _paths(folder)
    except UnreadableError:
        raise
    except CheckpointError as error:
        yield f"{error}; no folder of a module is carried over"
        return
    for path in paths:
        if path and not _fits(folder, path):
            yield (
                f"{folder / MODULES_NAME} names {show(path)}, which is no plain name of a folder "
                "beside it and is not carried over"
            )
    for name in _folders(folder):
        left = [file for file in _files(folder / name) if file.lower().endswith(PICKLE_SUFFIXES)]
        if left and not any(f.endswith(WEIGHTS_SUFFIX) for f in _files(folder / name)):
            yield (
                f"{folder / name} holds its weights in {left[0]}, a pickle, which is not carried "
                "over: load the model with sentence-transformers and save it again"
            )


def _folders(folder: Location) -> list[str]:
    try:
        return [path for path in dict.fromkeys(_paths(folder)) if _fits(folder, path)]
    except UnreadableError:
        raise
    except CheckpointError:
        return []


def _paths(folder: Location) -> list[str]:
    file = folder / MODULES_NAME
    if not at(folder).is_dir() or not at(file).exists():
        return []
    with open_regular(file) as stream:
        try:
            data = stream.read(CONFIG_LIMIT)
        except OSError as error:
            raise UnreadableError(f"{file}: cannot read ({reason(error)}).") from error
    try:
        modules = msgspec.json.decode(data, type=list[_Module])
    except (ValueError, RecursionError, msgspec.MsgspecError):
        modules = None
    if modules is None or len(modules) > _MOST:
        raise CheckpointError(
            f"{file}: expected a list of at most {_MOST} modules with their paths"
        )
    return [module.path for module in modules]


def _fits(folder: Location, path: str) -> bool:
    """Whether ``path`` is a folder in ``folder``: not above it, nor elsewhere through a link."""
    if not _PLAIN_FOLDER.fullmatch(path):
        return False
    place = folder / path
    return at(place).is_dir() and not (isinstance(place, Path) and place.is_symlink())


def _files(folder: Location) -> list[str]:
    return sorted(name for name in at(folder).names() or [] if _PLAIN_FILE.fullmatch(name))
