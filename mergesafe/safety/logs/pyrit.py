"""PyRIT's memory (a SQLite file): attacks, each with its outcome.

An attack that failed was withstood, one that succeeded was not; one without an outcome
("undetermined") and one that ended in an error are undecided. The file may be a stranger's: it is
opened read-only, tables alone are read, and only so much work is done.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from mergesafe.errors import DataError
from mergesafe.safety.logs.outcome import Outcome, set_name
from mergesafe.strict_json import parse_json

MAGIC: Final = b"SQLite format 3\0"
#: Outcomes of attacks, and whether the model withstood.
_OUTCOMES: Final = {"failure": 1.0, "success": 0.0, "undetermined": None, "error": None}
#: What is read of each table.
_COLUMNS: Final = {
    "AttackResultEntries": (
        "conversation_id", "objective", "outcome", "atomic_attack_identifier", "last_response_id",
        "last_score_id",
    ),
    "Conversations": ("conversation_id", "target_identifier"),
    "PromptMemoryEntries": ("id", "converted_value", "converted_value_data_type", "pyrit_version"),
    "ScoreEntries": ("id", "scorer_class_identifier"),
}  # fmt: skip
_QUERY: Final = """
SELECT a.objective, a.outcome, a.atomic_attack_identifier, c.target_identifier,
       CASE p.converted_value_data_type WHEN 'text' THEN p.converted_value END,
       s.scorer_class_identifier
FROM "AttackResultEntries" a
LEFT JOIN "Conversations" c ON c.conversation_id = a.conversation_id
LEFT JOIN "PromptMemoryEntries" p ON p.id = a.last_response_id
LEFT JOIN "ScoreEntries" s ON s.id = a.last_score_id
ORDER BY a.rowid"""
#: Steps of SQLite's machine between two counts, and counts until it is stopped.
_STEPS: Final = 100_000
_COUNTS: Final = 2_000
#: Bytes of a value, and characters of all rows: one response may be that of every attack.
_LONGEST: Final = 16 << 20
_LARGEST: Final = 1 << 30


def outcomes(path: Path) -> Iterator[Outcome]:
    """One for each attack.

    Raises:
        DataError: it is no such memory, of another version, damaged, or in use.
        KeyError, TypeError, ValueError: an entry is of another form.
    """
    if path.with_name(f"{path.name}-wal").exists():
        raise DataError(
            f"is in use: {path.name}-wal beside it holds what is not in it yet. End PyRIT, or copy "
            "the memory with 'sqlite3 FILE \".backup COPY\"'",
            source=path,
        )
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as memory:
            memory.execute("PRAGMA trusted_schema = OFF")
            _limit(memory)
            _check(memory, path)
            [[attacks]] = memory.execute('SELECT count(*) FROM "AttackResultEntries"')
            left = _LARGEST
            for number, row in enumerate(memory.execute(_QUERY)):
                left -= sum(len(each) for each in row if isinstance(each, str | bytes))
                if number >= attacks or left < 0:
                    raise DataError(
                        "names responses, conversations or scores many times over; PyRIT writes "
                        "each once",
                        source=path,
                    )
                yield _outcome(*row)
    except sqlite3.Error as error:
        raise DataError(f"cannot be read as PyRIT's memory ({error})", source=path) from None


def _limit(memory: sqlite3.Connection) -> None:
    left = iter(range(_COUNTS))
    memory.set_progress_handler(lambda: next(left, None) is None, _STEPS)
    if hasattr(memory, "setlimit"):  # from Python 3.11 on
        memory.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)


def _check(memory: sqlite3.Connection, path: Path) -> None:
    """Every table must be there, and be one: a view or a virtual table may compute anything."""
    # SQLite writes the statement of a table so, however it was typed, and another one of a virtual
    # table, which it lists as a table too.
    listed = memory.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE TABLE %'"
    )
    tables = {name for (name,) in listed}
    if "PromptMemoryEntries" not in tables:
        raise DataError("is a SQLite file, but not PyRIT's memory", source=path)
    for table, columns in _COLUMNS.items():
        found = {row[1] for row in memory.execute(f'PRAGMA table_info("{table}")')}
        missing = [each for each in columns if each not in found]
        if table not in tables or missing:
            lacks = f"{table}.{missing[0]}" if table in tables else f"the table {table}"
            raise DataError(
                f"is a memory of another version of PyRIT: it has not {lacks}; memories of PyRIT "
                "1.1 are read. PyRIT of this version brings an older memory up to date when it "
                "opens it",
                source=path,
            )


def _outcome(
    objective: str, outcome: str, attack: str | None, target: str | None, said: str | None,
    scorer: str | None,
) -> Outcome:  # fmt: skip
    if outcome not in _OUTCOMES:
        raise ValueError(f"the outcome of an attack is {str(outcome)[:40]!r}")
    asked = _object(target)
    technique = _child(_child(_object(attack), "attack_technique"), "attack")
    return Outcome(
        str(asked.get("model_name") or asked.get("class_name") or "PyRIT's target"),
        "safe_rate",
        set_name(str(technique.get("class_name") or "pyrit")),
        str(objective),
        str(said or ""),
        _OUTCOMES[outcome],
        f"PyRIT {_object(scorer).get('class_name') or 'without a scorer'}",
    )


def _object(text: str | None) -> Mapping[str, Any]:
    value = parse_json(text.encode()) if text else {}
    return value if isinstance(value, dict) else {}


def _child(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    children = about.get("children")
    found = children.get(name) if isinstance(children, dict) else None
    return found if isinstance(found, dict) else {}
