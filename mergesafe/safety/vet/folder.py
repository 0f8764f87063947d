"""What lies in a model's folder besides its weights: pickles, code, and settings that name code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, Final

from mergesafe.checkpoint._parse import reason, show
from mergesafe.checkpoint.location import Location, at, read_json_file, same_content
from mergesafe.checkpoint.model import CONFIG_LIMIT, PICKLE_SUFFIXES
from mergesafe.errors import CheckpointError
from mergesafe.safety.vet.findings import Finding, listing
from mergesafe.safety.vet.pickles import foreign_imports, is_pickle

_PICKLES: Final = (*PICKLE_SUFFIXES, ".pickle", ".joblib")
_CODE: Final = (
    ".py", ".pyc", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".js", ".jar", ".whl",
)  # fmt: skip
_SETTINGS: Final = ("config.json", "tokenizer_config.json", "processor_config.json")
#: Files of a local folder that are looked at.
_LIMIT: Final = 10_000


def check_folder(folder: Location, base: Location) -> Iterator[Finding]:
    """Pickles, code and remote code in ``folder``; what the base has too is only a note."""
    try:
        names = _names(folder)
    except OSError as error:
        yield Finding("unfit", "files", f"cannot be listed ({reason(error)})", str(folder))
        return
    if names is None:
        yield Finding("note", "files", "the server lists no files: only known ones are read", "-")
        names = []
    yield from _pickles(folder, [n for n in names if n.lower().endswith(_PICKLES)])
    code = [n for n in names if n.lower().endswith(_CODE)]
    known = [n for n in code if _same(folder / n, base / n)]
    if new := [n for n in code if n not in known]:
        yield Finding(
            "warning",
            "files",
            "holds code, which mergesafe never runs but tools that trust remote code do",
            listing(new),
        )
    if known:
        yield Finding("note", "files", "holds the same code as the base", listing(known))
    for name in _SETTINGS:
        yield from _remote_code(folder / name, base / name)


def read_settings(file: Location) -> dict[str, Any]:
    """The JSON object in ``file``; empty where there is none.

    Raises:
        CheckpointError: it is malformed.
    """
    return read_json_file(file, CONFIG_LIMIT) if at(file).present() else {}


def _names(folder: Location) -> list[str] | None:
    """Paths within the folder: of all below it where it is local, but for hidden folders."""
    if not isinstance(folder, Path):
        return at(folder).names()
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [str(PurePath(place, name).relative_to(folder)) for name in files]
        if len(found) > _LIMIT:
            break
    return sorted(found)


def _pickles(folder: Location, names: list[str]) -> Iterator[Finding]:
    plain = []
    for name in names:
        if not isinstance(folder, Path):
            plain.append(name)
            continue
        try:
            if not is_pickle(folder / name):
                continue
            calls = foreign_imports(folder / name)
        except (OSError, ValueError) as error:
            yield Finding("unfit", "files", f"pickle of which nothing can be told: {error}", name)
            continue
        if calls:
            what = f"pickle that runs {listing([show(call)[1:-1] for call in calls])} when loaded"
            yield Finding("unfit", "files", what, name)
        else:
            plain.append(name)
    if plain:
        yield Finding(
            "warning",
            "files",
            "pickles, which can run code when loaded; mergesafe reads safetensors only",
            listing(plain),
        )


def _remote_code(file: Location, base: Location) -> Iterator[Finding]:
    try:
        settings = read_settings(file)
    except CheckpointError as error:
        yield Finding("unfit", "files", str(error), file.name)
        return
    mapped = settings.get("auto_map")
    if mapped:
        try:
            known = read_settings(base).get("auto_map") == mapped
        except CheckpointError:
            known = False
        elsewhere = " of another repository" if "--" in str(mapped) else ""
        what = (
            f"names remote code{elsewhere} (auto_map: {show(mapped)}), which mergesafe never runs"
        )
        yield Finding("note" if known else "warning", "files", what, file.name)
    if settings.get("trust_remote_code"):
        what = "asks for trust_remote_code, which is the user's to give"
        yield Finding("warning", "files", what, file.name)


def _same(first: Location, second: Location) -> bool:
    try:
        return at(second).present() and same_content(first, second)
    except CheckpointError:
        return False
