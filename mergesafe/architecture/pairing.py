"""Pair the names of two sets of tensors that are spelt differently, by whole sets and shapes.

One constant prefix may stand in place of another: ``model.`` for ``model.language_model.``, nothing
for ``model.``, ``language_model.model.`` for ``model.language_model.``. Two models that merely have
one tensor each that the other lacks must not be paired by it, so a rule counts only if

* one prefix is the other with segments added, or has the same segments in another order;
* it carries over every name that it applies to, or gives every name that is wanted, with equal
  shapes;
* the first rule carries over at least half of the smaller set;
* no other rule does as much and pairs otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mergesafe.architecture.names import RENAMES

Shape = tuple[int, ...]
#: Names of either side whose rules are tried; a rule that holds shows in any of them.
_SAMPLE: Final = 24
#: Rules that are tried, most common first, and rules that may be needed for one pair of sets.
_CANDIDATES: Final = 12
_RULES: Final = 4


@dataclass(frozen=True)
class Rule:
    """``theirs`` in front of a name stands in place of ``ours``; both end in a dot, or are ""."""

    ours: str
    theirs: str

    def __str__(self) -> str:
        theirs, ours = (repr(each) if each else "nothing" for each in (self.theirs, self.ours))
        return f"{theirs} in place of {ours}"


@dataclass
class Pairing:
    """``stored``: our name -> theirs. ``ours`` and ``theirs``: names that were not paired."""

    stored: dict[str, str]
    ours: list[str]
    theirs: list[str]
    rules: list[Rule] = field(default_factory=list)
    renamed: int = 0
    #: Rules that fit equally well, so that none was taken.
    ambiguous: tuple[Rule, ...] = ()


def pair(
    ours: Mapping[str, Shape], theirs: Mapping[str, Shape], *, least: int | None = None
) -> Pairing:
    """Their name for each of ours: the same, another spelling of it, or one by a prefix.

    ``least``: how many names the first rule has to carry over, in place of half of a set.
    """
    if least is None:
        least = max(2, min(len(ours), len(theirs)) // 2)
    stored = {name: name for name in ours if name in theirs}
    found = Pairing(
        stored, [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    )
    if found.ours and found.theirs:
        _rename(found, ours, theirs)
    while found.ours and found.theirs and len(found.rules) < _RULES:
        best = _best(found, ours, theirs, 1 if found.rules else least)
        if best is None:
            break
        rule, mapped = best
        found.rules.append(rule)
        _take(found, mapped)
    return found


def _take(found: Pairing, mapped: Mapping[str, str]) -> None:
    """Pair our names with theirs."""
    found.stored.update(mapped)
    used = set(mapped.values())
    found.ours = [name for name in found.ours if name not in mapped]
    found.theirs = [name for name in found.theirs if name not in used]


def _rename(found: Pairing, ours: Mapping[str, Shape], theirs: Mapping[str, Shape]) -> None:
    """Old spellings, in either direction."""
    spellings = [*RENAMES, *((new, old) for old, new in RENAMES)]
    wanted = set(found.ours)
    mapped = {}
    for name in found.theirs:
        for one, other in spellings:
            target = name.removesuffix(one) + other
            if name.endswith(one) and target in wanted and ours[target] == theirs[name]:
                mapped[target] = name
    found.renamed = len(mapped)
    _take(found, mapped)


def _best(
    found: Pairing, ours: Mapping[str, Shape], theirs: Mapping[str, Shape], least: int
) -> tuple[Rule, dict[str, str]] | None:
    """The rule that pairs the most names; None where none holds or two hold equally well."""
    held: list[tuple[int, Rule, dict[str, str]]] = []
    for rule in _candidates(found, ours, theirs):
        mapped = _apply(rule, found, ours, theirs)
        if len(mapped) >= least:
            held.append((len(mapped), rule, mapped))
    if not held:
        return None
    most = max(count for count, _, _ in held)
    top = [(rule, mapped) for count, rule, mapped in held if count == most]
    if len({tuple(sorted(mapped.items())) for _, mapped in top}) > 1:
        found.ambiguous = tuple(rule for rule, _ in top)
        return None
    # Of rules that do the same, the shortest says it best.
    return min(top, key=lambda each: len(each[0].ours) + len(each[0].theirs))


def _candidates(
    found: Pairing, ours: Mapping[str, Shape], theirs: Mapping[str, Shape]
) -> list[Rule]:
    by_end: dict[tuple[str, Shape], list[str]] = {}
    for name in found.ours:
        by_end.setdefault((_end(name), ours[name]), []).append(name)
    votes: Counter[Rule] = Counter()
    step = max(1, len(found.theirs) // _SAMPLE)
    for their_name in found.theirs[::step]:
        for our_name in by_end.get((_end(their_name), theirs[their_name]), ()):
            rule = _rule(our_name, their_name)
            if rule is not None:
                votes[rule] += 1
    return [rule for rule, _ in votes.most_common(_CANDIDATES)]


def _end(name: str) -> str:
    return ".".join(name.rsplit(".", 2)[-2:])


def _rule(ours: str, theirs: str) -> Rule | None:
    """What differs in front of the parts that both end in; None where that is no such rule."""
    one, two = ours.split("."), theirs.split(".")
    same = 0
    while same < min(len(one), len(two)) and one[-1 - same] == two[-1 - same]:
        same += 1
    front, other = one[: len(one) - same], two[: len(two) - same]
    # "layers.0" for "layers.1" would pair tensors of different layers.
    if any(part.isdigit() for part in (*front, *other)):
        return None
    if not (_within(front, other) or _within(other, front) or sorted(front) == sorted(other)):
        return None
    return Rule(*("".join(f"{part}." for part in parts) for parts in (front, other)))


def _within(few: list[str], many: list[str]) -> bool:
    """Whether ``many`` is ``few`` with segments added."""
    rest = iter(many)
    return all(part in rest for part in few)


def _apply(
    rule: Rule, found: Pairing, ours: Mapping[str, Shape], theirs: Mapping[str, Shape]
) -> dict[str, str]:
    """Our name -> theirs by ``rule``; empty unless it holds for all of one side."""
    wanted = {name for name in found.ours if name.startswith(rule.ours)}
    given = [name for name in found.theirs if name.startswith(rule.theirs)]
    mapped = {}
    for name in given:
        target = rule.ours + name[len(rule.theirs) :]
        if target in wanted and ours[target] == theirs[name]:
            mapped[target] = name
    whole = len(mapped) in (len(given), len(wanted))
    return mapped if whole else {}
