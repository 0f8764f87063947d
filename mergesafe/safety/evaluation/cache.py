"""What models and judges said, kept in a folder, so that nothing is asked twice.

An entry's key is a digest of everything that the answer depends on: the model's identity (all bytes
of its weights, the adapter's, configuration, chat template), the conversation and the sampling; a
judge's name and version, the conversation and the response. Releases of torch or transformers are
not in it: they change answers by rounding only. Delete the folder to ask again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mergesafe.errors import DataError

FILE: Final = "answers.sqlite"
#: Seconds to wait for another process that writes.
_PATIENCE: Final = 60
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
        self.path = None if folder is None else folder / FILE
        with self._explained():
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            where = ":memory:" if self.path is None else str(self.path)
            self._connection = sqlite3.connect(where, timeout=_PATIENCE, isolation_level=None)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL) "
                "WITHOUT ROWID"
            )

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values of those keys that are there."""
        found: dict[str, Any] = {}
        with self._explained():
            for begin in range(0, len(keys), _ASKED_AT_ONCE):
                part = keys[begin : begin + _ASKED_AT_ONCE]
                marks = ", ".join("?" * len(part))
                rows = self._connection.execute(
                    f"SELECT key, value FROM answers WHERE key IN ({marks})", part
                )
                found.update((name, json.loads(value)) for name, value in rows)
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

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"the cache of answers cannot be used ({error}); expected a folder that can be "
                "written, and in it nothing but what mergesafe wrote. Delete it or name another "
                "with --cache",
                source=self.path,
            ) from None
