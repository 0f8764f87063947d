"""Finding and reading the files that a report is made of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

from mergesafe.engine.manifest import FORMAT, MANIFEST_NAME
from mergesafe.errors import DataError
from mergesafe.regular_file import open_regular
from mergesafe.report.manifest import Manifest
from mergesafe.results.reading import Document, decode, read_object, read_result
from mergesafe.results.writing import KINDS, Result
from mergesafe.untrusted import show
from mergesafe.version import __version__

#: A file of ours starts like this; other JSON in a folder (config.json, ...) is not read. One that
#: begins with a byte order mark is refused, not passed over.
_START: Final = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"mergesafe"\s*:')
_START_BYTES: Final = 512
_EXPECTED: Final = f"{', '.join(KINDS)} or {MANIFEST_NAME}"
#: What a report is made of.
Content: TypeAlias = Result | Manifest


def read_documents(runs: Sequence[str | os.PathLike[str]]) -> list[Document[Content]]:
    """Every file of a known kind in ``runs``: files, or folders that are searched with subfolders.

    The same file is read once. Hidden files and folders are passed over, and so are pipes, devices,
    links to folders and links that lead out of the searched folder.

    Raises:
        DataError: a run or file cannot be read, is malformed, of an unknown kind, or nothing is
            found; names the file and the field.
    """
    documents: dict[Path, Document[Content]] = {}
    for run in runs:
        found = list(_files(Path(run)))
        if not found:
            raise DataError(
                f"holds no file that a report can show; expected {_EXPECTED}, as the "
                "commands write them with --out or --json",
                source=str(run),
            )
        for path in found:
            documents.setdefault(path.resolve(), _read(path))
    return list(documents.values())


def _files(run: Path) -> Iterator[Path]:
    if not run.is_dir():
        yield run
        return

    def unreadable(error: OSError) -> NoReturn:
        raise DataError(f"cannot be read ({error.strerror})", source=error.filename)

    inside = run.resolve()
    for folder, subfolders, names in os.walk(run, onerror=unreadable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if _may_hold_json(path, inside) and (name == MANIFEST_NAME or _is_ours(path)):
                yield path


def _may_hold_json(path: Path, inside: Path) -> bool:
    if path.suffix != ".json" or path.name.startswith(".") or not path.is_file():
        return False
    return not path.is_symlink() or path.resolve().is_relative_to(inside)


def _is_ours(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return _START.match(file.read(_START_BYTES)) is not None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=path) from None


def _read(path: Path) -> Document[Content]:
    found, sha256 = read_object(path, "a folder, or a JSON file that mergesafe wrote")
    if "mergesafe_version" not in found or "format" not in found:
        return read_result(path, found, sha256)
    version = str(found["mergesafe_version"])
    if found["format"] != FORMAT:
        raise DataError(
            f"is a manifest of format {show(found['format'])}, this mergesafe ({__version__}) "
            f"reads format {FORMAT}; make the report with the version that wrote it "
            f"({show(version)})",
            source=path,
        )
    return Document(path, sha256, version, decode(path, found, Manifest, version))
