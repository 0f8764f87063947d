"""Other layouts of the same tensors: what transformers 4 and 5 call and cut differently.

``layouts.txt`` says for types of models which tensors of one layout are which of the other. A name
belongs to the longest of the patterns that it ends like. A model's tensors are given another layout
only where the reference has that layout alone and the model the other alone, so that a name of both
layouts (kimi's ``norm1``) is never taken for the wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Final, TypeAlias

from mergesafe.architecture.experts import model_types

Shape: TypeAlias = tuple[int, ...]
#: The numbers of a name that a pattern leaves open, and the segment behind the pattern.
_Key: TypeAlias = tuple[str, ...]

_TABLE: Final = Path(__file__).with_name("layouts.txt")


@dataclass(frozen=True, slots=True)
class Group:
    """Patterns of tensors of the old layout that are those of the new one; ``alike``: whether
    their elements lie in the same order.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    alike: bool


@dataclass(frozen=True, slots=True)
class Move:
    """A model's tensors ``own``, one behind the other, are the tensors ``made`` of these shapes."""

    own: tuple[str, ...]
    made: tuple[tuple[str, Shape], ...]


@dataclass
class _Found:
    """Where the patterns of a group occur in one model: pattern -> key -> prefix -> name."""

    at: dict[str, dict[_Key, dict[str, str]]] = field(default_factory=dict)

    def has(self, patterns: Iterable[str]) -> bool:
        return any(pattern in self.at for pattern in patterns)

    def like(self, pattern: str, key: _Key, prefix: str) -> str | None:
        """The name by that pattern and key, with that prefix if there are several."""
        names = self.at.get(pattern, {}).get(key, {})
        return names.get(prefix) or next(iter(names.values()), None)


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[Group, ...]]:
    found: dict[str, tuple[Group, ...]] = {}
    types: list[str] = []
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            types = line.strip("[]").split()
        elif line and not line.startswith("#"):
            alike = " = " in line
            old, new = (side.split(" + ") for side in re.split(" = | ! ", line))
            for kind in types:
                group = Group(tuple(old), tuple(new), alike)
                found[kind] = (*found.get(kind, ()), group)
    return found


def groups_of(config: Mapping[str, Any]) -> tuple[Group, ...]:
    """The groups of the model's type and of those of its parts."""
    groups = (group for kind in model_types(config) for group in _table().get(kind, ()))
    return tuple(dict.fromkeys(groups))


def moves(
    ours: Mapping[str, Shape], theirs: Mapping[str, Shape], groups: Collection[Group]
) -> list[Move]:
    """How ``theirs`` become tensors of the layout of ``ours``, with their own prefixes."""
    here, there = (_occurrences(names, groups) for names in (ours, theirs))
    result: list[Move] = []
    for group in groups:
        for own, other in ((group.old, group.new), (group.new, group.old)):
            apart = there.has(own) and here.has(other) and not (there.has(other) or here.has(own))
            if group.alike and apart:
                result += _moved(own, other, (ours, here), (theirs, there))
    return result


def counterpart(name: str, groups: Collection[Group]) -> tuple[str, bool] | None:
    """How a tensor's name ends in the other layout, and whether its elements lie alike there."""
    found = _occurrences((name,), groups)
    for group in groups:
        for own, other in ((group.old, group.new), (group.new, group.old)):
            for pattern in own:
                for key in found.at.get(pattern, {}):
                    return " + ".join(_name("", each, key) for each in other), group.alike
    return None


def _moved(
    own: tuple[str, ...],
    other: tuple[str, ...],
    ours: tuple[Mapping[str, Shape], _Found],
    theirs: tuple[Mapping[str, Shape], _Found],
) -> Iterator[Move]:
    shapes, found = theirs
    for key, prefixes in found.at.get(own[0], {}).items():
        for prefix in prefixes:
            parts = [found.at.get(each, {}).get(key, {}).get(prefix) for each in own]
            names = tuple(part for part in parts if part is not None)
            models = [ours[1].like(each, key, prefix) for each in other]
            wanted = [ours[0][name] for name in models if name is not None]
            if len(names) < len(own) or len(wanted) < len(other):
                continue
            made = [_name(prefix, each, key) for each in other]
            if any(name in shapes for name in made):
                continue
            if len(own) == len(other) == 1:
                yield Move(names, ((made[0], shapes[names[0]]),))
            elif sum(prod(shapes[name]) for name in names) == sum(map(prod, wanted)):
                yield Move(names, tuple(zip(made, wanted, strict=True)))


def _name(prefix: str, pattern: str, key: _Key) -> str:
    *numbers, end = key
    rest = iter(numbers)
    body = ".".join(next(rest) if each == "*" else each for each in pattern.split("."))
    return f"{prefix}{body}{end}"


def _occurrences(names: Iterable[str], groups: Collection[Group]) -> _Found:
    patterns = _compiled(tuple(dict.fromkeys(p for g in groups for p in (*g.old, *g.new))))
    found = _Found()
    for name in names:
        parts = name.rsplit(".", 2)[-2:]
        ends = (*parts, *(["*"] if any(map(str.isdecimal, parts)) else ()))
        held = [(pattern, match) for end in ends for pattern, compiled in patterns.get(end, ())
                if (match := compiled.fullmatch(name)) is not None]  # fmt: skip
        if held:
            pattern, match = max(held, key=lambda each: (each[0].count("."), len(each[0])))
            *numbers, end = match.groups()[1:]
            keys = found.at.setdefault(pattern, {})
            keys.setdefault((*numbers, end or ""), {})[match[1]] = name
    return found


@lru_cache(maxsize=8)
def _compiled(patterns: tuple[str, ...]) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Patterns by their last segment, which is the last of a name or the one before."""
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for pattern in patterns:
        parts = pattern.split(".")
        body = r"\.".join(r"(\d{1,5})" if part == "*" else re.escape(part) for part in parts)
        compiled = re.compile(rf"((?:.*\.)?){body}(\.\w+)?")
        found.setdefault(parts[-1], []).append((pattern, compiled))
    return found
