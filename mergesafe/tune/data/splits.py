"""The data of a tuning run: what it optimises on, and what it is verified on, never the same.

Which questions are held out follows from a hash of their text and the seed, so the order of a file,
other sets and repeated questions change nothing: the same question always lies on the same side.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from mergesafe.chat.records import Record, question_key, read_records
from mergesafe.errors import DataError, RecipeError
from mergesafe.recipe.nodes import Reporter, shown
from mergesafe.results.tuning import Subset
from mergesafe.tune.section.sections import DataSet, TuneSection

#: Overlaps that are told one by one.
_TOLD = 3
#: Roles whose records need an answer to be optimised on.
_ANSWERED = ("safety", "domain", "preference")
#: Of a set: what is optimised on, and what only judges the result.
SUBSETS: Final[tuple[Subset, ...]] = get_args(Subset)


@dataclass(frozen=True)
class Split:
    """One data set with its two parts; ``digest``: SHA-256 of the files' bytes."""

    about: DataSet
    path: Path
    heldout_path: Path
    train: tuple[Record, ...]
    heldout: tuple[Record, ...]
    digest: str

    @property
    def name(self) -> str:
        return self.about.name


def load_splits(
    section: TuneSection, folder: Path, recipe: Path | None = None
) -> tuple[Split, ...]:
    """Every set of ``section``, read and split; relative paths fall back to ``folder``.

    Raises:
        RecipeError: files are missing; names the lines of ``recipe``.
        DataError: a file is malformed, too short to split, or shares a question with another.
    """
    _check_there(section.data, folder, Reporter(recipe))
    splits = tuple(_load(each, section, folder) for each in section.data)
    _check_overlap(splits)
    return splits


def _check_there(sets: Iterable[DataSet], folder: Path, report: Reporter) -> None:
    for each in sets:
        named = (("path", each.path, each.path_line), ("heldout", each.heldout, each.heldout_line))
        for key, path, line in named:
            if path is not None and not os.path.exists(locate(path, folder)):
                report.record(
                    f"'{key}' of the data set '{each.name}' is {shown(path)}, and there is no such "
                    f"file here or in {folder}",
                    line,
                )
    if report.errors:
        raise RecipeError.joined(report.errors)


def _load(about: DataSet, section: TuneSection, folder: Path) -> Split:
    path = locate(about.path, folder)
    records = read_records(path, need_answer=about.role in _ANSWERED)
    heldout_path = path
    if about.role == "preference":
        _need_rejected(records, path)
    if about.heldout is None:
        train, heldout = _divide(records, section.heldout, section.seed, path)
    else:
        heldout_path = locate(about.heldout, folder)
        train = records
        heldout = read_records(heldout_path, need_answer=about.role in _ANSWERED)
        if about.role == "preference":
            _need_rejected(heldout, heldout_path)
    digest = hashlib.sha256(path.read_bytes() + heldout_path.read_bytes()).hexdigest()
    return Split(about, path, heldout_path, tuple(train), tuple(heldout), digest)


def locate(path: str, folder: Path) -> Path:
    """Where a ``path`` of the recipe lies: from here, else from ``folder``, the recipe's own."""
    expanded = Path(os.path.expanduser(path))
    there = expanded.is_absolute() or os.path.exists(expanded)  # which no name is too long for
    return expanded if there else folder / expanded


def _need_rejected(records: Iterable[Record], path: Path) -> None:
    for record in records:
        if record.rejected is None:
            raise DataError(
                "the record has no rejected answer; a set with 'role: preference' needs 'prompt', "
                "'chosen' and 'rejected'",
                source=path,
                line=record.line,
            )


def _divide(
    records: Sequence[Record], share: float, seed: int, path: Path
) -> tuple[list[Record], list[Record]]:
    """``share`` of the distinct questions, at least one, held out; at least one is not."""
    order = {
        asked: hashlib.sha256(f"{seed}\0{asked}".encode()).digest()
        for asked in map(question_key, records)
    }
    if len(order) < 2:
        raise DataError(
            "all records ask the same question; at least two are needed, one of which is held "
            "out, or a file of its own under 'heldout'",
            source=path,
        )
    count = min(max(1, round(share * len(order))), len(order) - 1)
    kept_back = set(sorted(order, key=order.__getitem__)[:count])
    train = [record for record in records if question_key(record) not in kept_back]
    heldout = [record for record in records if question_key(record) in kept_back]
    return train, heldout


def _part(name: str, part: str) -> str:
    return f"set '{name}'" + (", held out" if part == "heldout" else "")


def _check_listed_once(splits: Sequence[Split]) -> None:
    """Refuse one file in two places, which would be an overlap of all its lines."""
    seen: dict[Path, str] = {}
    for split in splits:
        parts = [("train", split.path)]
        if split.about.heldout is not None:
            parts.append(("heldout", split.heldout_path))
        for part, path in parts:
            owner = _part(split.name, part)
            first = seen.setdefault(path.resolve(), owner)
            if first != owner:
                raise DataError(
                    f"the file is listed twice, as {first} and as {owner}. What a merge is "
                    "verified on must not be what it was optimised on, and a question has one "
                    "role: give one of them a file of its own",
                    source=path,
                )


def _check_overlap(splits: Sequence[Split]) -> None:
    """Refuse a question that two sets share, or a set and a held-out file."""
    seen: dict[str, tuple[tuple[str, str], str]] = {}
    _check_listed_once(splits)
    shared: list[str] = []
    first_place: tuple[Path, int | None] | None = None
    for split in splits:
        parts = (("train", split.path, split.train), ("heldout", split.heldout_path, split.heldout))
        for part, path, records in parts:
            for record in records:
                owner = (split.name, part)
                place = f"line {record.line} of {path} ({_part(*owner)})"
                first_owner, first = seen.setdefault(question_key(record), (owner, place))
                if first_owner != owner:
                    shared.append(f"{place} asks what {first} asks")
                    first_place = first_place or (path, record.line)
    if first_place is None:
        return
    more = len(shared) - _TOLD
    raise DataError(
        f"the sets overlap: {', '.join(shared[:_TOLD])}{f', and {more} more' if more > 0 else ''}. "
        "What a merge is verified on must not be what it was optimised on, and a question has one "
        "role: remove it from one of the files",
        source=first_place[0],
        line=first_place[1],
    )
