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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from mergesafe.checkpoint.digest import digest_of, text
from mergesafe.errors import OutputError

_SEPARATOR: Final = "\t"
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

    def __init__(self, path: Path, subject: Line, before: Iterable[Tile | Statistics] = ()) -> None:
        """Start a journal at ``path``, with what an earlier run finished; replaces one there."""
        self.path = path
        new = path.with_name(path.name + ".new")
        lines = [encode_line(subject), *(encode_line(_record(entry)) for entry in before)]
        self._descriptor = -1
        try:
            self._descriptor = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666
            )
            self._write("".join(lines))
            os.fsync(self._descriptor)
            os.replace(new, path)
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
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, lines: str) -> None:
        data = memoryview(lines.encode())
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: the journal cannot be written ({error.strerror}). Free space or check "
            "the disk, then run again."
        )


def read_journal(path: Path) -> Finished | None:
    """What the journal at ``path`` says, up to its first damaged line; None without a subject."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    found: Finished | None = None
    for line in lines:
        record = decode_line(line)
        if record is None:
            break
        if found is None:
            found = Finished(record)
        elif "answers" in record:
            found.statistics[record["task"]] = Statistics(
                record["task"], tuple(record["answers"]), tuple(record["nonfinite"])
            )
        else:
            found.tiles.setdefault(record["task"], []).append(
                Tile(
                    record["task"], record["begin"], record["count"],
                    {part: int(digits, 16) for part, digits in record["digests"].items()},
                    tuple(record["nonfinite"]), record["overflow"],
                )
            )  # fmt: skip
    return found


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
    record: Line = json.loads(content)
    return record


def _check(content: str) -> str:
    return text(digest_of(content.encode()))[16:]
