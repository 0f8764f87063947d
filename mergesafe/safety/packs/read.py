"""The questions of packs, as sets of an evaluation."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

from mergesafe.chat.conversation import question
from mergesafe.chat.records import Record
from mergesafe.chat.tables import parquet_rows
from mergesafe.errors import ArgumentError, DataError, did_you_mean
from mergesafe.safety.evaluation.sets import EvaluationSet
from mergesafe.safety.packs.fetch import content, kept_at
from mergesafe.safety.packs.table import PACKS, Pack, PackSet, Url
from mergesafe.strict_json import decode_utf8, parse_json


def find_pack(name: str) -> Pack:
    """The pack that is called so.

    Raises:
        ArgumentError: there is none.
    """
    if name not in PACKS:
        raise ArgumentError(f"pack {name!r}: there is no such pack{did_you_mean(name, PACKS)}")
    return PACKS[name]


def read_pack(name: str) -> list[EvaluationSet]:
    """The sets of a pack, fetched where they are not here.

    Raises:
        ArgumentError: there is no such pack.
        DataError: a file cannot be had, has changed, or has not the questions of the pack.
    """
    return [_read(each) for each in find_pack(name).sets]


def judge_notes(sets: Iterable[EvaluationSet], judges: Iterable[object]) -> Iterator[str]:
    """A note on every set of a pack whose authors judge answers by another kind of judge.

    ``judges``: as :func:`~mergesafe.safety.judges.registry.make_judge` takes them.
    """
    kinds = {str(each).partition(":")[0] for each in judges if isinstance(each, str)}
    asked = {(each.name, each.path) for each in sets}
    for pack in PACKS.values():
        for each in pack.sets:
            judge = each.judge or pack.judge
            judged = any(kind == judge or kind.startswith(f"{judge}-") for kind in kinds)
            if (each.name, _where(each)) in asked and not judged:
                yield (
                    f"the set {each.name} is judged by '{judge}' where its authors publish "
                    "figures; those here are by other judges and do not compare with them"
                )


def _where(about: PackSet) -> str:
    first = about.sources[0]
    return first.address if isinstance(first, Url) else f"{first.package} {first.version}"


def _read(about: PackSet) -> EvaluationSet:
    files = [content(source) for source in about.sources]
    texts = [text for data in files for text in _questions(about, data)]
    if len(texts) != about.questions:
        raise DataError(
            f"the set {about.name} has {len(texts)} questions; expected {about.questions}: "
            f"{_another(about)}"
        )
    return EvaluationSet(
        about.name, about.role, _where(about), hashlib.sha256(b"".join(files)).hexdigest(),
        tuple(_distinct(texts)), len(texts) - len(set(texts)),
    )  # fmt: skip


def _distinct(texts: Iterable[str]) -> Iterator[Record]:
    return (Record(question(text)) for text in dict.fromkeys(texts))


def _questions(about: PackSet, data: bytes) -> list[str]:
    try:
        found = list(_values(about, data))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            f"the set {about.name} is not of its form ({type(error).__name__}: {error}): "
            f"{_another(about)}"
        ) from None
    return [text.strip() for text in found if text.strip()]


def _another(about: PackSet) -> str:
    """What to do about such a file: one of the web was kept before it was read."""
    first = about.sources[0]
    if not isinstance(first, Url):
        return f"{first.package} {first.version} is another version than the pack's"
    return (
        f"{kept_at(first)} is not what the pack expects of {first.address}; remove it to fetch it "
        "again"
    )


def _values(about: PackSet, data: bytes) -> Iterator[str]:
    if about.format == "parquet":
        rows = parquet_rows(io.BytesIO(data))
        yield from (_text(row[about.column]) for row in rows if about.keep(row))
        return
    text = decode_utf8(data).removeprefix("\ufeff")
    if about.format == "csv":
        for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
            if about.keep(row):
                context = row[about.context].strip() if about.context else ""
                yield f"{context}\n\n---\n\n{row[about.column]}" if context else row[about.column]
    elif about.format == "jsonl":
        for line in text.splitlines():
            if line.strip():
                yield _text(parse_json(line.encode())[about.column])
    elif about.format == "json":
        yield from (_text(each[about.column]) for each in parse_json(data))
    else:
        yield from (_text(each["value"]) for each in _yaml(text)["seeds"])


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a question is {type(value).__name__}")
    return value
