"""What an aligner is trained on: question, answer, and the answer as it should be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergesafe.chat.conversation import last_question
from mergesafe.chat.records import Record, read_records
from mergesafe.errors import DataError
from mergesafe.safety.align.criteria import BUILT_IN
from mergesafe.safety.align.selection import select

#: Of a hundred questions, how many are held out.
HELD_OUT: Final = 10
#: Fewer corrections teach nothing, and fewer of them held out show nothing.
FEWEST: Final = 20
FEWEST_HELD_OUT: Final = 2


@dataclass(frozen=True)
class Example:
    """A question x, an answer y, and y', which is y where nothing is to be corrected."""

    question: str
    bad: str
    corrected: str


@dataclass(frozen=True)
class AlignerData:
    """The examples of one criterion in two parts that share no question."""

    criterion: str
    text: str
    train: list[Example]
    heldout: list[Example]


def read_corrections(path: Path, criterion: str | None, seed: int) -> AlignerData:
    """The corrections of a JSON lines file.

    A preference is one: ``rejected`` is y and ``chosen`` y'. A record with an answer and
    ``"safe": true`` shows what is to be left alone.

    Raises:
        DataError: the file is malformed, names several criteria or none, or holds too little.
    """
    about, records = select(read_records(path, need_answer=True), criterion, path)
    if about is None:
        raise DataError(
            "no record names its criterion; name what the corrections are about: --criterion",
            source=path,
        )
    examples = [example for record in records for example in _of(record)]
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[_is_heldout(example.question, seed)].append(example)
    train, heldout = parts
    counts = [sum(each.bad != each.corrected for each in part) for part in parts]
    if counts[0] < FEWEST or counts[1] < FEWEST_HELD_OUT:
        raise DataError(
            f"{sum(counts)} corrections of the criterion '{about}' are too few: {counts[0]} to "
            f"train on and {counts[1]} held out, expected at least {FEWEST} and {FEWEST_HELD_OUT}. "
            "Give more preferences ('chosen' and 'rejected'), with more questions",
            source=path,
        )
    return AlignerData(about, _text(about, records, path), train, heldout)


def _of(record: Record) -> list[Example]:
    asked, answer = last_question(record.conversation), record.answer or ""
    if record.rejected is not None:
        return [Example(asked, record.rejected, answer)]
    return [Example(asked, answer, answer)] if record.extra.get("safe") is True else []


def _text(name: str, records: list[Record], path: Path) -> str:
    """What the criterion demands: by the records, else by the built-in one of its name."""
    texts = {text for each in records if isinstance(text := each.extra.get("criterion_text"), str)}
    if len(texts) > 1:
        raise DataError(
            f"the records give the criterion '{name}' {len(texts)} different texts "
            "('criterion_text'); train on the records of one",
            source=path,
        )
    known = {each.name: each.text for each in BUILT_IN}
    return next(iter(texts), known.get(name, f"The answer is {name}."))


def _is_heldout(question: str, seed: int) -> bool:
    """By a hash of the question, so that no question is in both parts."""
    digest = hashlib.sha256(f"{seed}\n{question.strip()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT
