"""Finding and reading the files that a report is made of."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from mergesafe.engine.manifest import FORMAT, MANIFEST_NAME
from mergesafe.errors import DataError, did_you_mean
from mergesafe.regular_file import open_regular, read_regular
from mergesafe.report.kinds import KINDS, Kind, Manifest
from mergesafe.strict_json import decode_utf8, parse_json
from mergesafe.version import __version__

#: A file of ours starts like this; other JSON in a folder (config.json, ...) is not read. One that
#: begins with a byte order mark is refused, not passed over.
_START: Final = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"mergesafe"\s*:')
_START_BYTES: Final = 512
#: A manifest of 14,000 tensors has 14 MB.
MAX_BYTES: Final = 256 * 2**20
_EXPECTED: Final = f"{', '.join(KINDS)} or {MANIFEST_NAME}"


@dataclass(frozen=True)
class Document:
    """A file that was read: its path, SHA-256, the version that wrote it, and what it holds."""

    path: Path
    sha256: str
    version: str
    value: Kind | Manifest

    @property
    def kind(self) -> str:
        """The name of its kind."""
        names = {struct: name for name, struct in KINDS.items()}
        return "manifest" if isinstance(self.value, Manifest) else names[type(self.value)]

    @property
    def is_newer(self) -> bool:
        """Whether a later version of mergesafe wrote it than the one that reads it."""
        return _numbers(self.version) > _numbers(__version__)


class _Head(msgspec.Struct):
    """``format`` is a number in manifests; a data card has a word under that name."""

    mergesafe: str | None = None
    kind: str | None = None
    format: int | str | None = None
    mergesafe_version: str | None = None


def read_documents(runs: Sequence[str | os.PathLike[str]]) -> list[Document]:
    """Every file of a known kind in ``runs``: files, or folders that are searched with subfolders.

    The same file is read once. Hidden files and folders are passed over, and so are pipes, devices,
    links to folders and links that lead out of the searched folder.

    Raises:
        DataError: a run or file cannot be read, is malformed, of an unknown kind, or nothing is
            found; names the file and the field.
    """
    documents: dict[Path, Document] = {}
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


def _read(path: Path) -> Document:
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); expected a folder or a JSON file", source=path
        ) from None
    head = _decode(path, data, _Head, None)
    struct, version = _struct_of(path, head)
    value = _decode(path, data, struct, version)
    return Document(path, hashlib.sha256(data).hexdigest(), version, value)


def _struct_of(path: Path, head: _Head) -> tuple[type[Any], str]:
    """The struct that a file is decoded into, and the version of its writer."""
    if head.mergesafe_version is not None and head.format is not None:
        if head.format != FORMAT:
            raise DataError(
                f"is a manifest of format {head.format}, this mergesafe ({__version__}) reads "
                f"format {FORMAT}; make the report with the version that wrote it "
                f"({head.mergesafe_version})",
                source=path,
            )
        return Manifest, head.mergesafe_version
    for name in ("mergesafe", "kind"):
        if getattr(head, name) is None:
            raise DataError(
                f"has no field '{name}', so it is not from mergesafe; expected {_EXPECTED}",
                source=path,
            )
    kind, version = str(head.kind), str(head.mergesafe)
    if kind not in KINDS:
        raise DataError(
            f"$.kind: {kind[:60]!r} is no kind that this mergesafe ({__version__}) knows"
            f"{did_you_mean(kind, KINDS)}{_if_newer(version)}",
            source=path,
        )
    return KINDS[kind], version


def _decode(path: Path, data: bytes, struct: type[Any], version: str | None) -> Any:
    try:
        return _parse(data, struct)
    except msgspec.ValidationError as error:
        problem, _, field = str(error).rpartition(" - at ")
        where = field.strip("`") if problem else "$"
        raise DataError(f"{where}: {problem or error}{_if_newer(version)}", source=path) from None
    except ValueError as error:
        raise DataError(
            f"is {error}; expected the whole of a file that mergesafe wrote", source=path
        ) from None


def _parse(data: bytes, struct: type[Any]) -> Any:
    # First, because msgspec raises UnicodeDecodeError or, since 0.23, DecodeError for such bytes.
    decode_utf8(data)
    try:
        return msgspec.json.decode(data, type=struct)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError):
        # A model's answer may hold half a surrogate pair, which msgspec does not take.
        return msgspec.convert(parse_json(data), struct)


def _if_newer(version: str | None) -> str:
    if version is None or _numbers(version) <= _numbers(__version__):
        return ""
    return (
        f". The file was written by mergesafe {version[:40]}, which is newer than this one "
        f"({__version__}): update mergesafe"
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, at most four: enough to order releases."""
    return tuple(int(part[:9]) for part in re.findall(r"\d+", version[:60])[:4])
