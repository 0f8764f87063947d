"""What a transplant that was interrupted has made, for ``--resume``.

A record tells that a table has its copied rows, which are then on the disk, or which new tokens
have rows, with a digest: rows that a power cut took are made again. All else is written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from mergesafe.checkpoint.format.digest import digest_of
from mergesafe.checkpoint.format.digest import text as digits
from mergesafe.errors import CheckpointError, MergesafeError
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


class Unfinished:
    """The journal of a transplant into ``path``; ``subject``: what its rows depend on.

    ``gathered``: numbers of tables with their copied rows. ``made``: of each table the tokens that
    have rows.
    """

    def __init__(self, path: Path, subject: Line) -> None:
        self._path, self._subject = path, subject
        self._found: list[Line] = []
        self._journal: Journal | None = None
        self.gathered: set[int] = set()
        self.made: dict[int, set[int]] = {}

    def look(self, place: Place) -> bool:
        """Whether an earlier run left work to go on with.

        Raises:
            OutputError: it is of other inputs, options or another version.
        """
        with Journal(place, TRANSPLANT) as file:
            found = file.read()
        if found is None:
            return False
        old = found.subject or {}
        changed = next((key for key in self._subject if old.get(key) != self._subject[key]), None)
        if changed is not None:
            raise TRANSPLANT.refusal(self._path, f"{changed} has changed since")
        self._found = [each for each in found.records if isinstance(each, dict)]
        return bool(self._found)

    def begin(self, place: Place, read: ReadRows | None) -> Journal:
        """Open the journal with what is still true of the earlier run: ``read(table, tokens)``
        gives the rows that are written, of each tensor of
        the table; None where there are none.
        """
        records = [each for each in self._found if read is not None and self._holds(each, read)]
        self._journal = Journal(place, TRANSPLANT)
        self._journal.begin(self._subject, records)
        return self._journal

    def note_gathered(self, table: int) -> None:
        """The copied rows of a table are on the disk."""
        self.gathered.add(table)
        self._append({"gathered": table})

    def note_made(self, table: int, tokens: list[int], rows: memoryview) -> None:
        """Tokens of a table have rows."""
        self.made.setdefault(table, set()).update(tokens)
        self._append({"table": table, "tokens": tokens, "digest": digits(digest_of(rows))})

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

    def _holds(self, record: Line, read: ReadRows) -> bool:
        """Whether what a record says is there; the rows of others are made again."""
        if "gathered" in record:
            self.gathered.add(record["gathered"])
            return True
        table, tokens = record["table"], record["tokens"]
        if table not in self.gathered:
            return False
        if {digits(digest_of(rows)) for rows in read(table, tokens)} != {record["digest"]}:
            return False
        self.made.setdefault(table, set()).update(tokens)
        return True

    def _append(self, record: Mapping[str, object]) -> None:
        assert self._journal is not None  # begin() opens it
        self._journal.append(dict(record))
