"""Questions of evaluation sets that a model was tuned or trained on, or is shown answers to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mergesafe.chat.conversation import last_question
from mergesafe.chat.duplicates import TextIndex
from mergesafe.chat.in_context import InContextModel
from mergesafe.chat.records import read_records
from mergesafe.errors import DataError
from mergesafe.extras import install
from mergesafe.safety.evaluation.sets import EvaluationSet

#: The similarity (Jaccard, of three words each) from which on two questions are one.
NEAR: Final = 0.7
_SHOWN: Final = 60


def overlaps(sets: Sequence[EvaluationSet], files: Sequence[Path]) -> Iterator[str]:
    """A note for each set with questions that are, or nearly are, in one of ``files``.

    Without the package datasketch only questions of the same words are found, which is said.

    Raises:
        DataError: a file holds no records.
    """
    near = find_spec("datasketch") is not None
    for path in files:
        index = TextIndex(NEAR if near else 1)
        index.add_all(last_question(record.conversation) for record in read_records(path))
        for each in sets:
            asked = [last_question(record.conversation) for record in each.records]
            repeated = [text for text in asked if index.find(text) is not None]
            if repeated:
                yield (
                    f"{len(repeated)} of {len(asked)} questions of the set {each.name} repeat one "
                    f"of {path}, such as {repeated[0][:_SHOWN]!r}: its figures say nothing about "
                    "new questions. Leave these out of the set, or tune without them"
                )
    if files and not near:
        yield (
            "questions were compared word by word; near duplicates need the package datasketch: "
            f"{install('generate')}"
        )


def check_demonstrations(model: InContextModel, sets: Sequence[EvaluationSet]) -> None:
    """Refuse demonstrations that answer a question of an evaluation set, case and spaces aside.

    Raises:
        DataError: one does.
    """
    index = TextIndex(1)
    index.add_all(last_question(each.conversation) for each in model.demonstrations)
    for each in sets:
        for record in each.records:
            text = last_question(record.conversation)
            if index.exactly(text):
                raise DataError(
                    f"a demonstration answers {text[:_SHOWN]!r}, which the set {each.name} asks: "
                    "the model would be shown the answer. Take it out of the demonstrations",
                    source=model.file,
                )
