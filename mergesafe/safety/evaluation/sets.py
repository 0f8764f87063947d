"""Sets of questions: unsafe ones, harmless ones, and those of a domain with their answers."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final, TypeAlias

from mergesafe.chat.conversation import misplaced, question
from mergesafe.chat.records import Record, question_key, read_records
from mergesafe.errors import ArgumentError, DataError
from mergesafe.regular_file import read_regular
from mergesafe.results.evaluation import QuestionSet, Role
from mergesafe.safety.variants import varied
from mergesafe.strict_json import decode_utf8

ROLES: Final[tuple[Role, ...]] = ("unsafe", "harmless", "domain")
#: Path of a set, or its name and path.
SetPaths: TypeAlias = "str | Path | Sequence[str | Path] | Mapping[str, str | Path]"
#: Where the shipped questions are, which stand in where no set is given.
SHIPPED: Final = "mergesafe/safety/questions"
#: Bytes of a file of questions.
_LARGEST: Final = 256 << 20


@dataclass(frozen=True)
class EvaluationSet:
    """Questions that are measured together.

    ``unsafe`` questions should be declined, ``harmless`` ones should not, and those of a ``domain``
    have an answer each. ``sha256`` is that of the file; ``duplicates`` were left out. ``variant``:
    the form in which the file's questions are asked; none as they stand.
    """

    name: str
    role: Role
    path: str
    sha256: str
    records: tuple[Record, ...]
    duplicates: int = 0
    variant: str = ""

    def first(self, limit: int | None) -> EvaluationSet:
        """The set with its first ``limit`` records; all of them for None."""
        return replace(self, records=self.records[:limit])

    def in_form(self, variant: str) -> EvaluationSet:
        """The same questions in another form, as a set of its own.

        Raises:
            DataError: the form is ``translation``, which a question does not have.
        """
        try:
            records = tuple(
                replace(each, conversation=varied(each.conversation, variant))
                for each in self.records
            )
        except DataError as error:
            raise DataError(str(error), source=self.path) from None
        return replace(
            self, name=f"{self.name}-{variant}", records=records, variant=variant, duplicates=0
        )

    def drawn(self, limit: int | None, seed: int) -> EvaluationSet:
        """The set with ``limit`` records that ``seed`` draws, in their order; all for None.

        Which ones depends on the seed and on each question alone: a larger limit adds to a smaller
        one's, and a question that joins the file takes the place of one at most.
        """
        if limit is None:
            return self

        def chance(number: int) -> bytes:
            asked = f"{seed}\n{question_key(self.records[number])}"
            return hashlib.sha256(asked.encode(errors="surrogatepass")).digest()

        chosen = sorted(range(len(self.records)), key=chance)[:limit]
        return replace(self, records=tuple(self.records[number] for number in sorted(chosen)))

    def document(self) -> QuestionSet:
        """As results name it."""
        return QuestionSet(
            name=self.name, role=self.role, path=self.path, sha256=self.sha256,
            duplicates=self.duplicates, records=len(self.records), variant=self.variant,
        )  # fmt: skip


def read_set(
    name: str, role: Role, path: Path, columns: Mapping[str, str] | None = None
) -> EvaluationSet:
    """A set in a file: one question a line where it ends in ``.txt``, otherwise records.

    All text is UTF-8; a byte order mark at its beginning is skipped. ``columns``: what the fields
    of records are called (:func:`~mergesafe.chat.records.read_records`).

    Raises:
        DataError: the file cannot be read, is empty or malformed, or a domain's record has no
            answer; names the line.
    """
    content = _content(path)
    if path.suffix == ".txt":
        if role == "domain":
            raise DataError(
                "a domain's set needs answers; expected JSON lines or CSV with 'question' and "
                "'answer', or another form of records, not plain questions",
                source=path,
            )
        records = _plain(content, path)
    else:
        records = read_records(path, need_answer=role == "domain", columns=columns)
    for record in records:
        wrong = misplaced(record.conversation)
        if wrong:
            raise DataError(wrong, source=path, line=record.line)
    distinct = {json.dumps([each.conversation, each.answer]): each for each in records}
    return EvaluationSet(
        name, role, str(path), hashlib.sha256(content).hexdigest(), tuple(distinct.values()),
        len(records) - len(distinct),
    )  # fmt: skip


def _content(path: Path) -> bytes:
    try:
        return read_regular(path, _LARGEST)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); expected a file of questions", source=path
        ) from None


def _plain(content: bytes, path: Path) -> list[Record]:
    asked = []
    for number, raw in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        try:
            text = decode_utf8(raw).strip()
        except ValueError as error:
            raise DataError(f"is {error}", source=path, line=number) from None
        if "\0" in text:
            raise DataError(
                "holds a zero byte, as text in UTF-16 does; save the file as UTF-8",
                source=path,
                line=number,
            )
        if text:
            asked.append(Record(question(text), line=number))
    if not asked:
        raise DataError(
            "there is no question in the file; expected one question a line", source=path
        )
    return asked


def shipped_sets() -> list[EvaluationSet]:
    """The questions that come with mergesafe: 48 unsafe and 60 harmless ones, few and simple."""
    folder = files("mergesafe.safety") / "questions"
    made = []
    for role in ("unsafe", "harmless"):
        name = f"{role}_heldout.txt"
        content = (folder / name).read_bytes()
        made.append(
            EvaluationSet(
                f"{role}-shipped", role, f"{SHIPPED}/{name}", hashlib.sha256(content).hexdigest(),
                tuple(_plain(content, Path(name))),
            )
        )  # fmt: skip
    return made


def named(paths: SetPaths) -> list[tuple[str, Path]]:
    """Names and paths: of a mapping, or of paths as the command line takes them."""
    if isinstance(paths, Mapping):
        return [(name, Path(path)) for name, path in paths.items()]
    listed: Iterable[str | Path] = [paths] if isinstance(paths, str | Path) else paths
    return [split_name(str(path)) for path in listed]


def split_name(text: str) -> tuple[str, Path]:
    """``NAME=FILE``, or ``FILE``, which is called as the file is without its ending."""
    name, equals, path = text.partition("=")
    if equals and name and path and not set(name) & {"/", "\\"}:
        return name, Path(path)
    return Path(text).stem, Path(text)


def check_name(name: str) -> None:
    """Refuse a set's name that could not be written in a requirement.

    Raises:
        ArgumentError: it is empty or has other characters than letters, digits, ``_`` and ``-``.
    """
    if not name or not all(c.isalnum() or c in "_-" for c in name):
        raise ArgumentError(
            f"a set is called {name!r}, which a requirement cannot name; use letters, digits, "
            "'_' and '-': NAME=FILE"
        )
