"""What a transplant that was interrupted has made, for ``--resume``.

A record tells that a table has its copied rows, which are then on the disk, or which new tokens
have rows, with a digest: rows that a power cut took are made again. All else is written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import msgspec

from mergesafe.checkpoint.format.digest import digest_of
from mergesafe.checkpoint.format.digest import text as digits
from mergesafe.errors import CheckpointError, MergesafeError, OutputError
from mergesafe.journal import Journal, Kind, Line
from mergesafe.private import Place

TRANSPLANT: Final = Kind(
    command="transplant-tokenizer",
    work="transplant",
    option="OUT",
    afresh="Run the command without --resume to start afresh, which discards that work.",
    limit=256 << 20,
)

#: The rows of tokens of a table, in each of its tensors.
ReadRows = Callable[[int, list[int]], list[bytes]]


class Gathered(msgspec.Struct, forbid_unknown_fields=True):
    """The record of a table, by its number, that has its copied rows."""

    gathered: int


class Made(msgspec.Struct, forbid_unknown_fields=True):
    """The record of tokens of a table that have rows; ``digest``: of these rows, one by one."""

    table: int
    tokens: list[int]
    digest: str


class Unfinished:
    """The journal of a transplant into ``path``; ``subject``: what its rows depend on; ``tables``:
    how many it has; ``tokens``: the ids whose rows are made.

    ``gathered``: numbers of tables with their copied rows. ``made``: of each table the tokens that
    have rows.
    """

    def __init__(self, path: Path, subject: Line, tables: int, tokens: Collection[int]) -> None:
        self._path, self._subject = path, subject
        self._tables, self._tokens = tables, frozenset(tokens)
        self._found: list[Gathered | Made] = []
        self._journal: Journal | None = None
        self.gathered: set[int] = set()
        self.made: dict[int, set[int]] = {}

    def look(self, place: Place) -> bool:
        """Whether an earlier run left work to go on with.

        Raises:
            OutputError: it is of other inputs, options or another version, or a record in it is
                none that this command writes.
        """
        with Journal(place, TRANSPLANT) as file:
            found = file.read()
        if found is None:
            return False
        old = found.subject or {}
        changed = next((key for key in self._subject if old.get(key) != self._subject[key]), None)
        if changed is not None:
            raise TRANSPLANT.refusal(self._path, f"{changed} has changed since")
        self._found = [self._entry(each, line) for line, each in enumerate(found.records, 2)]
        return bool(self._found)

    def begin(self, place: Place, read: ReadRows | None) -> Journal:
        """Open the journal with what is still true of the earlier run: ``read(table, tokens)``
        gives the rows that are written, of each tensor of the table; None where there are none.
        """
        records = [each for each in self._found if read is not None and self._holds(each, read)]
        self._journal = Journal(place, TRANSPLANT)
        self._journal.begin(self._subject, map(msgspec.to_builtins, records))
        return self._journal

    def note_gathered(self, table: int) -> None:
        """The copied rows of a table are on the disk."""
        self.gathered.add(table)
        self._append(Gathered(table))

    def note_made(self, table: int, tokens: list[int], rows: memoryview) -> None:
        """Tokens of a table have rows."""
        self.made.setdefault(table, set()).update(tokens)
        self._append(Made(table, tokens, digits(digest_of(rows))))

    @property
    def count(self) -> int:
        """How many rows are made."""
        return sum(len(tokens) for tokens in self.made.values())

    def explain(self, error: BaseException, count: int) -> bool:
        """Add to the message of an interrupt or an error that work is kept; whether it is: an input
        that is wrong leaves nothing to go on with.
        """
        done = self.count
        if not done or isinstance(error, CheckpointError):
            return False
        told = f"{done:,} of {count:,} new rows are finished and kept: run the same command with "
        told += "--resume to continue"
        if isinstance(error, KeyboardInterrupt):
            error.args = (f"interrupted; {told}",)
        elif isinstance(error, MergesafeError):
            error.args = (f"{error} ({told}.)",)
        return True

    def _entry(self, record: Any, line: int) -> Gathered | Made:
        """What a line of the journal says."""
        gathered = isinstance(record, dict) and "gathered" in record
        entry: Gathered | Made
        try:
            entry = msgspec.convert(record, Gathered) if gathered else msgspec.convert(record, Made)
        except msgspec.ValidationError as error:
            raise self._no_record(line, str(error)) from None
        if isinstance(entry, Gathered):
            table, others = entry.gathered, frozenset[int]()
        else:
            table, others = entry.table, frozenset(entry.tokens) - self._tokens
        if not 0 <= table < self._tables:
            raise self._no_record(line, f"there is no table {table}")
        if others:
            raise self._no_record(line, f"token {min(others)} gets no row that is made")
        return entry

    def _no_record(self, line: int, why: str) -> OutputError:
        return TRANSPLANT.refusal(
            self._path, f"line {line} of its journal is no record of a transplant: {why}"
        )

    def _holds(self, record: Gathered | Made, read: ReadRows) -> bool:
        """Whether what a record says is there; the rows of others are made again."""
        if isinstance(record, Gathered):
            self.gathered.add(record.gathered)
            return True
        table, tokens = record.table, record.tokens
        if table not in self.gathered:
            return False
        if {digits(digest_of(rows)) for rows in read(table, tokens)} != {record.digest}:
            return False
        self.made.setdefault(table, set()).update(tokens)
        return True

    def _append(self, record: Gathered | Made) -> None:
        assert self._journal is not None  # begin() opens it
        self._journal.append(msgspec.to_builtins(record))
