"""The journal of a merge: which tiles are finished, so that ``--resume`` can go on from there.

A text file beside the unfinished shards. Its first line is what the work depends on (recipe,
inputs, options, version); every further line is one finished tile with its digests, or the
statistics of a tensor that is read in several tiles. Each line ends with a digest of itself, so
that a line cut off by a crash is told from a whole one. Lines are appended after the bytes of their
tile were written; since a power cut may keep the line and lose the bytes, a resumed merge reads
every finished tile again and compares digests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from mergesafe.checkpoint.format.digest import digest_of, parse, text
from mergesafe.errors import OutputError
from mergesafe.private import Place, close, create_file, open_own_file
from mergesafe.system_faults import advice

_SEPARATOR: Final = "\t"
#: A million tiles take as much.
_LIMIT: Final = 256 << 20
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
Line: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Tile:
    """Elements [begin, begin + count) of one task, written; digests by part (see manifest.py).

    ``nonfinite``: inputs that held NaN or infinity there. ``overflow``: whether the output does.
    """

    task: int
    begin: int
    count: int
    digests: dict[str, int]
    nonfinite: tuple[int, ...] = ()
    overflow: bool = False


@dataclass(frozen=True)
class Statistics:
    """Answers to everything that the method asked about one task, in order."""

    task: int
    answers: tuple[Any, ...]
    nonfinite: tuple[int, ...] = ()


@dataclass
class Finished:
    """What a journal says: its first line, tiles and statistics by task."""

    subject: Line
    tiles: dict[int, list[Tile]] = field(default_factory=dict)
    statistics: dict[int, Statistics] = field(default_factory=dict)


class Journal:
    """Appends to the journal of a running merge. Not thread-safe: one caller at a time."""

    def __init__(
        self, place: Place, subject: Line, before: Iterable[Tile | Statistics] = ()
    ) -> None:
        """Start a journal at ``place``, with what an earlier run finished; replaces one there."""
        self.path = place.path
        new, folder = f"{place.name}.new", place.folder
        lines = [encode_line(subject), *(encode_line(_record(entry)) for entry in before)]
        self._descriptor = -1
        try:
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=folder)  # of a run that was killed
            self._descriptor = create_file(new, folder, 0o600)
            self._write("".join(lines))
            os.fsync(self._descriptor)
            os.replace(new, place.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise self._failed(error) from error

    def append(self, entry: Tile | Statistics) -> None:
        """Record finished work, whose bytes have been written."""
        try:
            self._write(encode_line(_record(entry)))
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """Make the journal durable."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        if self._descriptor >= 0:
            close(self._descriptor)
            self._descriptor = -1

    def _write(self, lines: str) -> None:
        data = memoryview(lines.encode())
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: the journal cannot be written ({error.strerror}). {advice(error)}"
        )


def read_journal(place: Place) -> Finished | None:
    """What the journal at ``place`` says, up to its first damaged line; None without a subject.

    Raises:
        OutputError: it is too large to be one.
    """
    try:
        lines = _content(place).decode("utf-8", "replace").split("\n")
    except OSError:
        return None
    found: Finished | None = None
    for line in lines:
        record = decode_line(line)
        if record is None:
            break
        if found is None:
            found = Finished(record)
        elif not _take(record, found):
            break
    return found


def _content(place: Place) -> bytes:
    with open(open_own_file(place.name, os.O_RDONLY, place.folder), "rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise OutputError(
            f"{place.path}: larger than {_LIMIT:,} bytes, which no journal of a merge is. Merge "
            "without --resume to start afresh, which discards the unfinished work."
        )
    return data


def _take(record: Line, found: Finished) -> bool:
    """Add a record; False where it is none of ours, whatever its digest says."""
    entry: Tile | Statistics
    try:
        if "answers" in record:
            entry = msgspec.convert(record, Statistics)
            found.statistics[entry.task] = entry
        else:
            digests = {part: parse(text) for part, text in record["digests"].items()}
            entry = msgspec.convert({**record, "digests": digests}, Tile)
            found.tiles.setdefault(entry.task, []).append(entry)
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError):
        return False
    return True


def _record(entry: Tile | Statistics) -> Line:
    if isinstance(entry, Statistics):
        return {"task": entry.task, "answers": entry.answers, "nonfinite": entry.nonfinite}
    return {
        "task": entry.task,
        "begin": entry.begin,
        "count": entry.count,
        "digests": {part: text(digest) for part, digest in entry.digests.items()},
        "nonfinite": entry.nonfinite,
        "overflow": entry.overflow,
    }


def encode_line(record: Line) -> str:
    """A record with a digest of itself, and a line's end."""
    # Floats are written with all their digits, and NaN and infinity as Python reads them.
    content = _encode(record)
    return f"{content}{_SEPARATOR}{_check(content)}\n"


def decode_line(line: str) -> Line | None:
    """The record of a line without its end; None where the line is damaged or cut off."""
    content, separator, check = line.rpartition(_SEPARATOR)
    if not separator or check != _check(content):
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _check(content: str) -> str:
    return text(digest_of(content.encode()))[16:]
