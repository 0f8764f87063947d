"""What models and judges said, kept in a folder, so that nothing is asked twice.

An entry's key is a digest of everything that the answer depends on: the model's identity (all bytes
of its weights, the adapter's, configuration, chat template), the conversation and the sampling; a
judge's name and version, the conversation and the response. Releases of torch or transformers are
not in it: they change answers by rounding only. Delete the folder to ask again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from mergesafe.errors import DataError
from mergesafe.private import open_own_file
from mergesafe.private_folder import make_private
from mergesafe.strict_json import parse_json

FILE: Final = "answers.sqlite"
#: Seconds to wait for another process that writes.
_PATIENCE: Final = 60
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
)
#: Bytes of one answer: the longest of models have a hundredth.
_LONGEST: Final = 64 << 20
#: SQLite's oldest limit of parameters in one statement.
_ASKED_AT_ONCE: Final = 900


def key(kind: str, *parts: object) -> str:
    """The digest of ``parts``, which JSON can hold."""
    written = json.dumps([kind, *parts], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()


class Cache:
    """Values by key in ``folder``; several processes may use one folder at a time.

    Without a folder, in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the database, or make it for this user alone: answers to unsafe questions are in it.

        Raises:
            DataError: the folder or the database is of somebody else, can be written to by others,
                or is anything but what this class wrote.
        """
        self.path = None if folder is None else folder / FILE
        with self._explained():
            if self.path is None:
                where = ":memory:"
            else:
                _check_files(self.path)
                where = str(self.path)
            self._connection = sqlite3.connect(where, timeout=_PATIENCE, isolation_level=None)
            # What a database brings along is not run.
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._connection.execute("PRAGMA cell_size_check = ON")
            self._connection.execute(_TABLE)
            self._check_schema()

    def get(self, keys: Sequence[str], form: Any = Any) -> dict[str, Any]:
        """The values of those keys that are there; ``form``: the type that all of them have.

        Raises:
            DataError: a value is too large, no JSON, or of another type.
        """
        found: dict[str, Any] = {}
        with self._explained():
            for begin in range(0, len(keys), _ASKED_AT_ONCE):
                part = keys[begin : begin + _ASKED_AT_ONCE]
                marks = ", ".join("?" * len(part))
                rows = self._connection.execute(
                    "SELECT key, typeof(value), CASE WHEN length(CAST(value AS BLOB)) <= ? THEN "
                    f"value END FROM answers WHERE key IN ({marks})",
                    (_LONGEST, *part),
                )
                for name, kind, value in rows:
                    if kind != "text" or value is None:
                        raise ValueError(f"an answer is no text of up to {_LONGEST:,} bytes")
                    read = parse_json(value.encode(), constants=True)
                    found[name] = msgspec.to_builtins(msgspec.convert(read, form))
        return found

    def put(self, values: Mapping[str, Any]) -> None:
        """Keep ``values``: all or none of them."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()

    def _check_schema(self) -> None:
        """Refuse triggers, views and other tables: no answer may come from anywhere else."""
        rows = self._connection.execute("SELECT type, name, sql FROM sqlite_master LIMIT 2")
        if rows.fetchall() != [("table", "answers", _TABLE.replace("IF NOT EXISTS ", ""))]:
            raise ValueError("it holds other things than answers")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (
            sqlite3.Error, OSError, ValueError, TypeError, RecursionError, OverflowError,
            msgspec.ValidationError,
        ) as error:  # fmt: skip
            raise DataError(
                f"the cache of answers cannot be used ({error}); expected a folder that can be "
                "written, and in it nothing but what mergesafe wrote. Delete it or name another "
                "with --cache",
                source=self.path,
            ) from None


def _check_files(path: Path) -> None:
    """See to it that the database and what SQLite keeps beside it are this user's alone.

    SQLite opens them by their names and follows links, so nobody else may put anything there.

    Raises:
        OSError: they are not.
    """
    make_private(path.parent)
    for name in (path.name, *(f"{path.name}-{mark}" for mark in ("journal", "wal", "shm"))):
        flags = os.O_RDWR | (os.O_CREAT if name == path.name else 0)
        with suppress(FileNotFoundError):
            descriptor = open_own_file(path.with_name(name), flags)
            try:
                with suppress(PermissionError):  # ours, so its file system has no modes
                    os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)
