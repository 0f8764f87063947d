"""Names of models: which of them mean the same model, and the shortest that tell models apart.

Files are written in different folders, by different commands: ``./base+./adapters/aligned`` of a
recipe and ``/runs/base+/runs/adapters/aligned`` of a manifest are one model.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from functools import cache


class Names:
    """The names of all files of a report."""

    def __init__(self, names: Iterable[str]):
        distinct = list(dict.fromkeys(names))
        self._canonical = {name: _longest(name, distinct) for name in distinct}
        self._short = shortest(self._canonical.values())

    def canonical(self, name: str) -> str:
        """One name for all spellings of a model."""
        return self._canonical.get(name, name)

    def short(self, name: str) -> str:
        """The fewest last parts of the name that no other model shares."""
        canonical = self.canonical(name)
        return self._short.get(canonical, canonical)


def _longest(name: str, names: list[str]) -> str:
    """The fullest spelling of ``name``; itself where longer ones are of several models."""
    spellings = [other for other in names if _means_same(name, other)]
    longest = max(spellings, key=lambda other: (len(_tokens(other)), len(other), other))
    return longest if all(_means_same(other, longest) for other in spellings) else name


def _means_same(first: str, second: str) -> bool:
    """Whether the path of one, and of its adapter, ends with all of the other's."""
    if first == second:
        return True
    ones, others = first.split("+"), second.split("+")
    if " " in first or " " in second:  # a title, not a path
        return False
    count = min(len(ones), len(others))
    return all(
        _ends_alike(_path(one), _path(other))
        for one, other in zip(ones[-count:], others[-count:], strict=True)
    )


def _ends_alike(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    count = min(len(first), len(second))
    return count > 0 and first[-count:] == second[-count:]


@cache
def _path(part: str) -> tuple[str, ...]:
    return tuple(posixpath.normpath(part).split("/"))


def _tokens(name: str) -> list[str]:
    return [token for part in name.split("+") for token in _path(part)]


def shortest(names: Iterable[str]) -> dict[str, str]:
    """The fewest last parts of each name that no other name ends with.

    ``runs/base+runs/adapters/aligned`` becomes ``aligned``, or ``adapters/aligned`` beside another
    ``aligned``; a name with a space is a title and stays as it is.
    """
    tails = {name: _tails(name) for name in names}
    short = {}
    for name, own in tails.items():
        others = {tail for other in tails if other != name for tail in tails[other]}
        short[name] = next((tail for tail in own if tail not in others), name)
    return short


def _tails(name: str) -> list[str]:
    """The last part, the last two, ...; without the marks between them in front."""
    if " " in name:
        return [name]
    starts = [0, *(i + 1 for i, c in enumerate(name[:-1]) if c in "/+")]
    return [tail for start in reversed(starts) if (tail := name[start:].strip("/"))]
