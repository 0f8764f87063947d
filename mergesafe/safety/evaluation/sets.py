"""Sets of questions: unsafe ones, harmless ones, and those of a domain with their answers."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from mergesafe.chat.conversation import question
from mergesafe.chat.records import Record, question_key, read_records
from mergesafe.errors import ArgumentError, DataError
from mergesafe.regular_file import read_regular
from mergesafe.strict_json import decode_utf8

Role = Literal["unsafe", "harmless", "domain"]
ROLES: Final[tuple[Role, ...]] = ("unsafe", "harmless", "domain")
#: Path of a set, or its name and path.
SetPaths: TypeAlias = "str | Path | Sequence[str | Path] | Mapping[str, str | Path]"
#: Where the shipped questions are, which stand in where no set is given.
SHIPPED: Final = "mergesafe/demo/questions"
#: Bytes of a file of questions.
_LARGEST: Final = 256 << 20


@dataclass(frozen=True)
class EvaluationSet:
    """Questions that are measured together.

    ``unsafe`` questions should be declined, ``harmless`` ones should not, and those of a ``domain``
    have an answer each. ``sha256`` is that of the file; ``duplicates`` were left out.
    """

    name: str
    role: Role
    path: str
    sha256: str
    records: tuple[Record, ...]
    duplicates: int = 0

    def first(self, limit: int | None) -> EvaluationSet:
        """The set with its first ``limit`` records; all of them for None."""
        return replace(self, records=self.records[:limit])

    def as_dict(self) -> dict[str, Any]:
        """For JSON: name, role, path, sha256, records, duplicates."""
        listed = {k: v for k, v in vars(self).items() if k != "records"}
        return {**listed, "records": len(self.records)}


def read_set(name: str, role: Role, path: Path) -> EvaluationSet:
    """A set in a file: one question a line where it ends in ``.txt``, otherwise JSON lines.

    Either is UTF-8; a byte order mark at its beginning is skipped.

    Raises:
        DataError: the file cannot be read, is empty or malformed, or a domain's record has no
            answer; names the line.
    """
    content = _content(path)
    if path.suffix == ".txt":
        if role == "domain":
            raise DataError(
                "a domain's set needs answers; expected JSON lines with 'question' and 'answer' "
                "or another form of records, not plain questions",
                source=path,
            )
        records = _plain(content, path)
    else:
        records = read_records(path, need_answer=role == "domain")
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
    folder = files("mergesafe") / "demo" / "questions"
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


def gather(
    unsafe: SetPaths = (),
    harmless: SetPaths = (),
    domain: SetPaths = (),
    sets: str | Path | None = None,
    limit: int | None = None,
) -> list[EvaluationSet]:
    """All sets, by role; the shipped ones where neither unsafe nor harmless questions are given.

    A set without a name is called what its file is called.

    Raises:
        ArgumentError: two sets have one name, or a name cannot be one.
        DataError: see :func:`read_set`; or a question is unsafe in one set and harmless in another.
        RecipeError: the file ``sets`` is not valid.
    """
    from mergesafe.safety.evaluation.sets_file import read_sets_file

    given = dict(zip(ROLES, map(named, (unsafe, harmless, domain)), strict=True))
    if sets is not None:
        for role, more in read_sets_file(Path(sets)).items():
            given[role] = given[role] + more
    read = [read_set(name, role, path) for role in ROLES for name, path in given[role]]
    if not given["unsafe"] and not given["harmless"]:
        read = shipped_sets() + read
    names = [each.name for each in read]
    for name in names:
        check_name(name)
        if names.count(name) > 1:
            raise ArgumentError(
                f"two sets are called {name!r}; name one of them otherwise: NAME=FILE"
            )
    _check_overlap(read)
    return [each.first(limit) for each in read]


def _check_overlap(sets: Sequence[EvaluationSet]) -> None:
    """Refuse a question that is to be declined and not to be."""
    unsafe = {
        question_key(record): (each, record)
        for each in sets
        if each.role == "unsafe"
        for record in each.records
    }
    for each in sets:
        both = [record for record in each.records if question_key(record) in unsafe]
        if each.role != "harmless" or not both:
            continue
        other, record = unsafe[question_key(both[0])]
        count = "1 question is" if len(both) == 1 else f"{len(both)} questions are"
        raise DataError(
            f"{count} both in the harmless set {each.name!r} and in the unsafe set {other.name!r} "
            f"({other.path}:{record.line}); a question has one role: remove it from one of the "
            "files, or give another file",
            source=each.path,
            line=both[0].line,
        )


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
