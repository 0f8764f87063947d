"""Records of conversations, in TRL's conversational formats.

A file holds JSON lines, one JSON list of objects, or a table, which its ending says
(:mod:`mergesafe.chat.tables`). Each object or row has one of these forms (https://huggingface.co/docs/trl/dataset_formats):

- ``{"messages": [...]}``: the last turn is the assistant's answer;
- ``{"prompt": [...], "completion": [...]}``: the answer apart;
- ``{"prompt": [...], "chosen": [...], "rejected": [...]}``: a preference;
- ``{"prompt": [...]}``: a question without an answer.

``prompt``, ``completion``, ``chosen`` and ``rejected`` may also be plain text. Two common spellings
are taken as well: ``{"question": "...", "answer": "..."}`` and ``{"instruction": "...",
"output": "..."}``. Anything else in a record, such as ``provenance``, is kept in ``extra``.

A file is UTF-8; a byte order mark at its beginning is skipped.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

from mergesafe.chat.conversation import Conversation, Role, answered, question
from mergesafe.chat.tables import ENDINGS, table_rows
from mergesafe.errors import DataError, nearest
from mergesafe.regular_file import open_regular
from mergesafe.strict_json import parse_json

_ROLES: Final = ("system", "user", "assistant")
_FIELDS: Final = (
    "messages", "prompt", "completion", "chosen", "rejected", "question", "answer", "instruction",
    "output",
)  # fmt: skip
#: Those that make a question of a record, before the field 'question' would.
_ASKING: Final = ("messages", "prompt")
_SHOWN: Final = 60
#: Names of columns that an error lists.
_LISTED: Final = 12
#: Bytes of a line: far above a long conversation.
_LONGEST: Final = 16 << 20
#: Bytes of a list, and how many of a file are looked at to see whether it is one.
_LARGEST: Final = 256 << 20
_PEEKED: Final = 4096
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Record:
    """A question, and its answer or its two answers where there are any.

    ``conversation`` ends with the user's turn. ``answer``: the one to give (``chosen`` of a
    preference); ``rejected``: the one not to give. ``source`` and ``line``: where it was read.
    """

    conversation: Conversation
    answer: str | None = None
    rejected: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = field(default=None, compare=False)
    source: Path | None = field(default=None, compare=False)

    def as_json(self) -> dict[str, Any]:
        """The record in the first of the forms above that holds it."""

        def turn(text: str) -> Conversation:
            return [{"role": "assistant", "content": text}]

        if self.answer is None:
            body: dict[str, Any] = {"prompt": self.conversation}
        elif self.rejected is None:
            body = {"messages": answered(self.conversation, self.answer)}
        else:
            body = {
                "prompt": self.conversation,
                "chosen": turn(self.answer),
                "rejected": turn(self.rejected),
            }
        return {**body, **self.extra}


def question_key(record: Record) -> str:
    """What makes two questions the same: their turns, whatever the case and spacing."""
    return "\n".join(
        f"{turn['role']}: {' '.join(turn['content'].split()).casefold()}"
        for turn in record.conversation
    )


def read_records(
    path: Path | str, *, need_answer: bool = False, columns: Mapping[str, str] | None = None
) -> list[Record]:
    """All records of a file; blank lines are skipped.

    ``columns``: what a field above is called in this file, where it is something else. Where the
    question is named, no other field is taken for it.

    Raises:
        DataError: the file cannot be read, is empty, or a line is no record; names the line.
    """
    records = list(_records(Path(path), need_answer, columns or {}))
    if not records:
        raise DataError(
            "there is no record in the file; expected one JSON object a line, a list of them, or "
            "rows of a table",
            source=path,
        )
    return records


def record_from(
    value: object,
    source: Path | str,
    line: int,
    *,
    need_answer: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Record:
    """The record in a JSON object that stands at ``line`` (or row) of ``source``.

    Raises:
        DataError: it is no record; names the line.
    """
    return _Line(Path(source), line).record(value, need_answer, columns or {})


def write_records(records: Iterable[Record]) -> str:
    """JSON lines of ``records``."""
    return "".join(f"{json.dumps(r.as_json(), ensure_ascii=False)}\n" for r in records)


def _records(path: Path, need_answer: bool, columns: Mapping[str, str]) -> Iterator[Record]:
    try:
        if path.suffix.lower() in ENDINGS:
            for number, row in table_rows(path):
                yield _Line(path, number).record(row, need_answer, columns)
            return
        with open_regular(path) as file:
            if _is_list(file):
                for number, value in enumerate(_Line(path, 1).parse_list(file.read(_LARGEST)), 1):
                    yield _InList(path, number).record(value, need_answer, columns)
                return
            for number, raw in enumerate(iter(lambda: file.readline(_LONGEST + 1), b""), 1):
                line = _Line(path, number)
                if len(raw) > _LONGEST:
                    line.fail(f"has more than {_LONGEST:,} bytes; expected one JSON object a line")
                if raw.strip():
                    yield line.record(line.parse(raw), need_answer, columns)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); expected a file of records", source=path
        ) from None


def _is_list(file: BinaryIO) -> bool:
    """Whether a JSON list is all that the file holds; it is read from its beginning afterwards."""
    start = file.read(_PEEKED).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    return start.startswith(b"[")


@dataclass(frozen=True)
class _Line:
    """Where a record stands, for its errors."""

    path: Path
    number: int

    def fail(self, problem: str) -> NoReturn:
        raise DataError(problem, source=self.path, line=self.number) from None

    def parse_list(self, raw: bytes) -> list[object]:
        if len(raw) == _LARGEST:
            self.fail(f"has more than {_LARGEST:,} bytes; write one JSON object a line instead")
        try:
            value = parse_json(raw.removeprefix(codecs.BOM_UTF8), constants=True)
        except ValueError as error:
            self.fail(f"is not a JSON list of objects ({error})")
        return cast("list[object]", value)

    def parse(self, raw: bytes) -> object:
        if self.number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)  # editors put it at the beginning of a file
        try:
            return cast(object, parse_json(raw, constants=True))
        except ValueError as error:
            self.fail(f"is not a JSON object ({error}): {raw[:_SHOWN].decode(errors='replace')!r}")

    def record(self, value: object, need_answer: bool, columns: Mapping[str, str]) -> Record:
        if not isinstance(value, dict):
            self.fail(f"expected a JSON object, found {type(value).__name__}")
        value = self._renamed(value, columns)
        given = {k: held for k, held in value.items() if held is not None or k not in _FIELDS}
        record = self._record(given)
        if need_answer and record.answer is None:
            self.fail(
                "the record has no answer; expected 'messages' that end with the assistant, "
                "'question' with 'answer', or 'prompt' with 'completion' or 'chosen'"
            )
        return replace(record, line=self.number, source=self.path)

    def _renamed(self, value: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
        """``value`` with what stands under other names under the fields' own."""
        renamed = dict(value)
        for column in columns.values():
            if column not in value:
                close = nearest(column, value)
                hint = "" if close is None else f" (did you mean {close!r}?)"
                found = ", ".join(sorted(value)[:_LISTED])
                self.fail(f"there is no column {column!r}{hint}; found {found}")
            renamed.pop(column, None)
        if "question" in columns:
            renamed = {key: held for key, held in renamed.items() if key not in _ASKING}
        renamed |= {meant: value[column] for meant, column in columns.items()}
        if "answer" in columns and "question" not in renamed:
            for asked, answer in (("prompt", "completion"), ("instruction", "output")):
                if asked in renamed:
                    renamed[answer] = renamed.pop("answer")
                    break
        return renamed

    def _record(self, value: dict[str, Any]) -> Record:
        extra = {key: value[key] for key in value if key not in _FIELDS}
        if "messages" in value:
            turns = self._turns(value["messages"], "messages")
            if turns[-1]["role"] == "user":
                return Record(turns, extra=extra)
            if turns[-1]["role"] != "assistant" or len(turns) < 2:
                self.fail("'messages' must end with the user's turn, or the assistant's after it")
            return Record(self._asked(turns[:-1], "messages"), turns[-1]["content"], None, extra)
        if "prompt" in value:
            asked = self._asked(self._turns(value["prompt"], "prompt", "user"), "prompt")
            if ("chosen" in value) != ("rejected" in value):
                self.fail("a preference needs both 'chosen' and 'rejected'")
            if "chosen" in value:
                chosen, rejected = (self._answer(value[key], key) for key in ("chosen", "rejected"))
                return Record(asked, chosen, rejected, extra)
            answer = (
                self._answer(value["completion"], "completion") if "completion" in value else None
            )
            return Record(asked, answer, None, extra)
        for asked_key, answer_key in (("question", "answer"), ("instruction", "output")):
            if asked_key in value:
                asked = question(self._text(value[asked_key], asked_key))
                text = value.get(answer_key)
                return Record(
                    asked, None if text is None else self._text(text, answer_key), None, extra
                )
        found = ", ".join(sorted(value)[:_LISTED]) or "nothing"
        self.fail(f"expected 'messages', 'prompt' or 'question' in the record; found {found}")

    def _answer(self, value: object, key: str) -> str:
        turns = self._turns(value, key, "assistant")
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            self.fail(f"'{key}' must be one turn of the assistant")
        return turns[0]["content"]

    def _asked(self, turns: Conversation, key: str) -> Conversation:
        if turns[-1]["role"] != "user":
            self.fail(f"'{key}' must ask something: its last turn before the answer is the user's")
        return turns

    def _turns(self, value: object, key: str, role: str | None = None) -> Conversation:
        if isinstance(value, str) and role is not None:
            return [{"role": cast(Role, role), "content": self._text(value, key)}]
        if not isinstance(value, list) or not value:
            self.fail(f"'{key}' must be a list of turns with 'role' and 'content'")
        turns: Conversation = []
        for turn in value:
            if not isinstance(turn, dict) or turn.get("role") not in _ROLES:
                self.fail(f"every turn of '{key}' needs a 'role', one of {', '.join(_ROLES)}")
            turns.append({"role": turn["role"], "content": self._text(turn.get("content"), key)})
        return turns

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not value.strip():
            self.fail(f"'{key}' must hold text; found {value!r:.{_SHOWN}}")
        half = _SURROGATE.search(value)
        if half is not None:
            self.fail(
                f"'{key}' holds half a surrogate pair ({half[0]!a}), which is no text and which no "
                "tokenizer takes; remove it, or write the whole character"
            )
        return value


class _InList(_Line):
    """The record of this number in a JSON list, whose lines say nothing."""

    def fail(self, problem: str) -> NoReturn:
        raise DataError(f"record {self.number}: {problem}", source=self.path) from None
