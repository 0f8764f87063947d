"""All sets of an evaluation: those given by role, those that a file lists, and the shipped ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mergesafe.chat.records import question_key
from mergesafe.errors import ArgumentError, DataError
from mergesafe.safety.evaluation.sets import (
    ROLES,
    EvaluationSet,
    SetPaths,
    check_name,
    named,
    read_set,
    shipped_sets,
)
from mergesafe.safety.evaluation.sets_file import read_sets_file
from mergesafe.safety.evaluation.shapes import SHAPES, shapes_of
from mergesafe.safety.packs.read import read_pack
from mergesafe.safety.variants import ALL, TRANSLATION, VARIANTS, is_translated

if TYPE_CHECKING:
    from mergesafe.safety.evaluation.options import EvaluationOptions


def gather(
    unsafe: SetPaths = (),
    harmless: SetPaths = (),
    domain: SetPaths = (),
    sets: str | Path | None = None,
    limit: int | None = None,
    packs: Sequence[str] = (),
    variants: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    limit_seed: int | None = None,
) -> list[EvaluationSet]:
    """All sets, by role, and those of packs; the shipped ones where there is none of an unsafe or
    harmless role.

    A set without a name is called what its file is called. ``limit``: questions of each set, drawn
    by ``limit_seed``, or the first ones. ``variants``: forms in which the unsafe and the harmless
    questions are asked as well, each a set of its own; ``all``: every one that all of these
    questions have. ``columns``: what the fields of all files are called.

    Raises:
        ArgumentError: two sets have one name, or a name cannot be one.
        DataError: see :func:`read_set` and :func:`read_pack`; or a question is unsafe in one set
            and harmless in another.
        RecipeError: the file ``sets`` is not valid.
    """
    given = dict(zip(ROLES, map(named, (unsafe, harmless, domain)), strict=True))
    if sets is not None:
        for role, more in read_sets_file(Path(sets)).items():
            given[role] = given[role] + more
    read = [read_set(name, role, path, columns) for role in ROLES for name, path in given[role]]
    for pack in dict.fromkeys(packs):
        read += read_pack(pack)
    if not any(each.role != "domain" for each in read):
        read = shipped_sets() + read
    names = [each.name for each in read]
    for name in names:
        check_name(name)
        if names.count(name) > 1:
            raise ArgumentError(
                f"two sets are called {name!r}; name one of them otherwise: NAME=FILE"
            )
        if name in SHAPES and len(shapes_of(read)) > 0:
            raise ArgumentError(
                f"a set is called {name!r}, and so are the figures of such conversations in all "
                "sets; name the set otherwise: NAME=FILE"
            )
        if variants and name in VARIANTS:
            raise ArgumentError(
                f"a set and a variant are both called {name!r}, and so would be their figures; "
                "name the set otherwise: NAME=FILE"
            )
    _check_overlap(read)
    if limit_seed is None:
        read = [each.first(limit) for each in read]
    else:
        read = [each.drawn(limit, limit_seed) for each in read]
    asked = [each for each in read if each.role != "domain"]
    return read + [each.in_form(form) for form in _forms(variants, asked) for each in asked]


def sets_of(options: EvaluationOptions) -> list[EvaluationSet]:
    """All sets that ``options`` name; see :func:`gather`."""
    return gather(
        options.unsafe, options.harmless, options.domain, options.sets, options.limit,
        options.packs, options.variants, options.columns, options.limit_seed,
    )  # fmt: skip


def _forms(variants: Sequence[str], sets: Sequence[EvaluationSet]) -> list[str]:
    """The variants that are meant; ALL: those that every one of ``sets`` has."""
    if ALL not in variants:
        return list(variants)
    records = [record for each in sets for record in each.records]
    return [
        each
        for each in VARIANTS
        if each != TRANSLATION or all(is_translated(one.conversation) for one in records)
    ]


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
