"""Labelled responses, and their split by question."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mergesafe.chat.conversation import last_question
from mergesafe.chat.records import Record, read_records
from mergesafe.errors import DataError
from mergesafe.safety.align.selection import select

Split = Literal["train", "calibration", "heldout"]
#: Of a hundred questions, how many are trained on, and how many fit temperature and epoch.
SHARES: Final[tuple[tuple[Split, int], ...]] = (
    ("train", 70), ("calibration", 15), ("heldout", 15),
)  # fmt: skip
#: Fewer of a class in a split, and its figures mean nothing.
FEWEST: Final = 5


@dataclass(frozen=True)
class Example:
    """A response and whether it is safe."""

    question: str
    response: str
    safe: bool


def read_examples(path: Path) -> list[Example]:
    """The labelled responses of a JSON lines file of one criterion: see :func:`read_labelled`."""
    return read_labelled(path)[1]


def read_labelled(path: Path, criterion: str | None = None) -> tuple[str | None, list[Example]]:
    """The criterion that the records name, and the labelled responses of a JSON lines file.

    A record with an answer needs ``"safe": true`` or ``false``; a preference holds two examples,
    ``chosen`` safe and ``rejected`` not. ``criterion``: the one to take, of several.

    Raises:
        DataError: a record has no label, or there is no example of one class, or there are several
            criteria and none is chosen.
    """
    about, records = select(read_records(path, need_answer=True), criterion, path)
    examples = [
        example
        for number, record in enumerate(records, 1)
        for example in _of(record, path, record.line or number)
    ]
    for safe in (True, False):
        if not any(example.safe is safe for example in examples):
            raise DataError(
                f"no response is labelled {'safe' if safe else 'unsafe'}; an inspector needs both",
                source=path,
            )
    return about, examples


def _of(record: Record, path: Path, number: int) -> list[Example]:
    asked = last_question(record.conversation)
    answer = record.answer or ""
    if record.rejected is not None:
        return [Example(asked, answer, True), Example(asked, record.rejected, False)]
    safe = record.extra.get("safe")
    if not isinstance(safe, bool):
        raise DataError(
            f'record {number} has no label: expected "safe": true or false beside its answer, or '
            "a preference with 'chosen' and 'rejected'",
            source=path,
        )
    return [Example(asked, answer, safe)]


def split_of(question: str, seed: int) -> Split:
    """By a hash of the question alone, so that no question is in two splits."""
    digest = hashlib.sha256(f"{seed}\n{question.strip()}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") % 100
    for split, share in SHARES:
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares do not add up to 100")


def split(examples: Sequence[Example], seed: int, source: Path) -> dict[Split, list[Example]]:
    """The examples by split.

    Raises:
        DataError: a split has fewer than ``FEWEST`` of a class.
    """
    parts: dict[Split, list[Example]] = {name: [] for name, _ in SHARES}
    for example in examples:
        parts[split_of(example.question, seed)].append(example)
    for name, part in parts.items():
        safe = sum(example.safe for example in part)
        if min(safe, len(part) - safe) < FEWEST:
            raise DataError(
                f"{len(examples)} responses are too few: the {name} split has {safe} safe and "
                f"{len(part) - safe} unsafe ones, expected at least {FEWEST} of each. Give more "
                "questions (the split is by question, 70 : 15 : 15), or another --seed.",
                source=source,
            )
    return parts
