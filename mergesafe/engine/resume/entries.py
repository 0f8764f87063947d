"""What the journal of a merge records: finished tiles with their digests, and statistics.

A line is added after the bytes of its tile were written, and lines are synced every few seconds,
after the tiles. Since a power cut may keep a line and lose the bytes, a resumed merge reads every
finished tile again and compares digests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mergesafe.checkpoint.format.digest import parse, text
from mergesafe.journal import Kind, Line

MERGE: Final = Kind(
    command="merge",
    work="merge",
    option="folder",
    afresh="Merge without --resume to start afresh, which discards the unfinished work.",
    sync_lines=False,
    limit=256 << 20,  # a million tiles take as much
)


@dataclass(frozen=True)
class Tile:
    """Elements [begin, begin + count) of one task, written; digests by part (see manifest.py).

    ``nonfinite``: inputs that held NaN or infinity there. ``overflow``: whether the output does.
    ``directions``: of a part of the task vectors, where these are few and a warning says so.
    """

    task: int
    begin: int
    count: int
    digests: dict[str, int]
    nonfinite: tuple[int, ...] = ()
    overflow: bool = False
    directions: int = 0


@dataclass(frozen=True)
class Statistics:
    """Answers to everything that the method asked about one task, in order."""

    task: int
    answers: tuple[Any, ...]
    nonfinite: tuple[int, ...] = ()


@dataclass
class Finished:
    """What an unfinished merge has finished: tiles and statistics by task."""

    tiles: dict[int, list[Tile]] = field(default_factory=dict)
    statistics: dict[int, Statistics] = field(default_factory=dict)


def record_of(entry: Tile | Statistics) -> Line:
    """The line of an entry."""
    if isinstance(entry, Statistics):
        return {"task": entry.task, "answers": entry.answers, "nonfinite": entry.nonfinite}
    return {
        "task": entry.task,
        "begin": entry.begin,
        "count": entry.count,
        "digests": {part: text(digest) for part, digest in entry.digests.items()},
        "nonfinite": entry.nonfinite,
        "overflow": entry.overflow,
        **({"directions": entry.directions} if entry.directions else {}),
    }


def finished_of(records: Iterable[Any]) -> Finished:
    """What the lines of a journal say, up to the first that :func:`record_of` did not make."""
    found = Finished()
    for record in records:
        try:
            if "answers" in record:
                entry = msgspec.convert(record, Statistics)
                found.statistics[entry.task] = entry
            else:
                digests = {part: parse(digits) for part, digits in record["digests"].items()}
                tile = msgspec.convert({**record, "digests": digests}, Tile)
                found.tiles.setdefault(tile.task, []).append(tile)
        except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError):
            break
    return found
