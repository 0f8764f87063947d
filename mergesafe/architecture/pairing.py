"""Pair the names of two sets of tensors that are spelt differently, by whole sets and shapes.

One constant prefix may stand in place of another: ``model.`` for ``model.language_model.``, nothing
for ``model.``, ``language_model.model.`` for ``model.language_model.``. Two models that merely have
one tensor each that the other lacks must not be paired by it, so a rule counts only if

* one prefix is the other with segments added, or has the same segments in another order, or both
  are made of modules that hold a whole language model (``model.``, ``language_model.``);
* it carries over nearly every name that it applies to, or gives nearly every name that is wanted,
  nearly all with equal shapes;
* the first rule carries over at least half as many names as the smaller set has, towers aside;
* no other rule does as much and pairs otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mergesafe.architecture.names import RENAMES, is_counter, is_recomputed, is_tower

Shape = tuple[int, ...]
#: Names of either side whose rules are tried; a rule that holds shows in any of them.
_SAMPLE: Final = 24
#: Rules that are tried, most common first, and rules that may be needed for one pair of sets.
_CANDIDATES: Final = 12
_RULES: Final = 4
#: Modules that hold a whole language model, so that one may stand in place of another.
_WHOLE_MODEL: Final = frozenset(
    ("model", "language_model", "text_model", "transformer", "backbone", "llm")
)
_OLD_ENDS: Final = tuple(old for old, _ in RENAMES)
#: Shares of one side's names that a rule has to carry over, and of those with equal shapes.
_WHOLE: Final = 0.8
_EQUAL: Final = 0.7


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
    # Old spellings first, so that a prefix may differ as well.
    one, two = _respelt(ours), _respelt(theirs)
    found = _paired(
        {name: ours[own] for name, own in one.items()},
        {name: theirs[own] for name, own in two.items()},
        least,
    )
    stored = {one[name]: two[other] for name, other in found.stored.items()}
    return replace(
        found,
        stored=stored,
        ours=[one[name] for name in found.ours],
        theirs=[two[name] for name in found.theirs],
        renamed=sum((one[n] != n) != (two[o] != o) for n, o in found.stored.items()),
    )


def _respelt(names: Mapping[str, Shape]) -> dict[str, str]:
    """Name in the newer spelling -> name; as they are where two would be one."""
    result = {}
    for name in names:
        new = name
        if name.endswith(_OLD_ENDS):
            new = next(name.removesuffix(a) + b for a, b in RENAMES if name.endswith(a))
        result[new if new not in names else name] = name
    return result


def _paired(ours: Mapping[str, Shape], theirs: Mapping[str, Shape], least: int | None) -> Pairing:
    stored = {name: name for name in ours if name in theirs}
    found = Pairing(
        stored, [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    )
    if least is None and found.ours and found.theirs:
        sizes = [sum(not _aside(n, side[n]) for n in side) for side in (ours, theirs)]
        least = max(2, min(sizes) // 2)
    while found.ours and found.theirs and len(found.rules) < _RULES:
        best = _best(found, ours, theirs, 1 if found.rules or least is None else least)
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
    alike = _within(front, other) or _within(other, front) or sorted(front) == sorted(other)
    if not alike and not _WHOLE_MODEL.issuperset((*front, *other)):
        return None
    return Rule(*("".join(f"{part}." for part in parts) for parts in (front, other)))


def _within(few: list[str], many: list[str]) -> bool:
    """Whether ``many`` is ``few`` with segments added."""
    rest = iter(many)
    return all(part in rest for part in few)


def _apply(
    rule: Rule, found: Pairing, ours: Mapping[str, Shape], theirs: Mapping[str, Shape]
) -> dict[str, str]:
    """Our name -> theirs by ``rule``; empty unless it holds for nearly all of one side.

    What it does not carry over is missing, and is reported as that. A few shapes may differ, such
    as the rows of another vocabulary: whoever reads the pair says so.
    """
    wanted = [name for name in found.ours if name.startswith(rule.ours)]
    given = [name for name in found.theirs if name.startswith(rule.theirs)]
    targets = set(wanted)
    mapped = {}
    for name in given:
        target = rule.ours + name[len(rule.theirs) :]
        if target in targets and is_tower(target) == is_tower(name):
            mapped[target] = name
    equal = sum(ours[target] == theirs[name] for target, name in mapped.items())
    sides = [[n for n in side if not _aside(n, shapes[n])] for side, shapes in
             ((wanted, ours), (given, theirs))]  # fmt: skip
    whole = len(mapped) >= _WHOLE * min(map(len, sides))
    return mapped if whole and equal >= _EQUAL * len(mapped) else {}


def _aside(name: str, shape: Shape) -> bool:
    """Whether models of one kind may or may not have the tensor."""
    return is_recomputed(name, shape) or is_counter(name) or is_tower(name)
