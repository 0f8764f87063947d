"""The records of one criterion, in a file that may hold those of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mergesafe.chat.records import Record
from mergesafe.errors import DataError, did_you_mean


def criterion_of(record: Record) -> str | None:
    """The criterion that a record names."""
    found = record.extra.get("criterion")
    return found if isinstance(found, str) else None


def select(
    records: Sequence[Record], wanted: str | None, source: Path
) -> tuple[str | None, list[Record]]:
    """The criterion that the records are about, None where nobody names one, and its records.

    Raises:
        DataError: ``wanted`` is None and there are several, or there is no record of ``wanted``.
    """
    named = sorted({name for name in map(criterion_of, records) if name is not None})
    if wanted is None and len(named) > 1:
        raise DataError(
            f"records of several criteria ({', '.join(named)}); one inspector or aligner is "
            "trained for each, so name one: --criterion",
            source=source,
        )
    if not named:
        return wanted, list(records)
    chosen = named[0] if wanted is None else wanted
    if chosen not in named:
        raise DataError(
            f"no record of the criterion '{chosen}'{did_you_mean(chosen, named)}; found "
            f"{', '.join(named)}",
            source=source,
        )
    return chosen, [each for each in records if criterion_of(each) == chosen]
