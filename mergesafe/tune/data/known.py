"""Tuning data that are a test set of the field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mergesafe.chat.conversation import last_question
from mergesafe.errors import DataError
from mergesafe.safety.packs.known import known_packs
from mergesafe.tune.data.splits import Split

#: The share of a test set from which on a file counts as the set itself. A part of one, such as
#: its half for training, is told of and not refused.
WHOLE: Final = 0.9


def check_known(splits: Sequence[Split], allowed: bool) -> list[str]:
    """Warnings of sets that share questions with a pack.

    Raises:
        DataError: one holds a whole pack, and that is not ``allowed``.
    """
    warnings = []
    for split in splits:
        asked = [last_question(r.conversation) for r in (*split.train, *split.heldout)]
        for name, (shared, total) in known_packs(asked).items():
            told = (
                f"holds {shared} of the {total} questions of the test set {name}: what a model "
                "that is tuned on them is measured on it says nothing about new questions"
            )
            if shared >= WHOLE * total and not allowed:
                raise DataError(
                    f"{told}. Tune on other questions; or write 'known_test_sets: allow' into "
                    "'tune' and measure on another set",
                    source=split.path,
                )
            warnings.append(f"{split.path}: {told}")
    return warnings
