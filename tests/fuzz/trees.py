"""Changes of JSON by its tree, and the values that break readers.

A tree is what JSON spells, but that an object is a list of pairs (:class:`Object`), so that a key
can stand in it twice, and that :class:`Raw` is text that goes into the JSON as it is.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any, Final, TypeAlias


class Raw(str):
    """JSON that Python would not write."""

    __slots__ = ()


class Object(list[list[Any]]):
    """Pairs of key and value."""

    __slots__ = ()


Tree: TypeAlias = Any
#: Where a value stands: the list that holds it (or the pair of an object), and its place there.
Place: TypeAlias = tuple[list[Any], int]

STRINGS: Final = (
    "", " ", "\0", "a\0b", "\n", "\x1b[2J", "\u202e", "é", "e\u0301", "😀", "\ufeff", "\x85",
    "A" * 300, "B" * 100_000, "../../etc/passwd", "/dev/zero", "/dev/null", "..", ".", "/", "~",
    "C:\\x", "a/b", "*", "[", "(", "(a+)+$", ".?" * 60 + "X", "%s%n", "{}", "{0.__class__}",
    "{{ 7 * 7 }}", "{% for i in x %}", "<script>", "http://", "https://u:p@h/?q=1", "hf://a/b",
    "http://[::1", "a@http://x:99999", "file:///", "null", "true", "NaN", "inf", "-inf", "1e999",
    "1", "-1", "0x10", "1_000", "٣", "²", "\uff11", "9" * 5000, "model_type", "__metadata__",
    "float32", "bfloat16", "rules", "policy:x", "<<", "&a", "!!python/object", "\\", '"', "'",
)  # fmt: skip
VALUES: Final[tuple[Tree, ...]] = (
    None, True, False, 0, 1, -1, 2, 3, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63,
    2**64, -(2**63) - 1, 10**30, 10**300, 0.5, -0.5, 1.5, 1e-320, 1e308, -1e308, 1e30, 0.1 + 0.2,
    Raw("-0"), Raw("-0.0"), Raw("9" * 300), Raw("9" * 320), Raw("9" * 5000), Raw("-" + "9" * 5000),
    Raw("1e400"), Raw("-1e400"), Raw("1e-400"), Raw("1E5"), Raw("NaN"), Raw("Infinity"),
    Raw("-Infinity"), Raw('"\\ud800"'), Raw('"a\\udfffb"'), Raw('"\\u0000"'), Raw('"\ud800"'),
    Raw("[" * 100_000 + "]" * 100_000), Raw('{"a":' * 900 + "1" + "}" * 900),
    Raw("[" * 90 + "]" * 90), Raw('{"text_config":' * 90 + "{}" + "}" * 90),
    Raw("[" + "0," * 9999 + "0]"), Raw("{" + ",".join(f'"k{i}":{i}' for i in range(2000)) + "}"),
    [], Object(), [[]], [None], [0, 0], [[0.5]], ["a"], Object([["", ""]]), Object([["a", None]]),
    Object([["model_type", "llama"]]),
)  # fmt: skip


def parse(text: bytes) -> Tree:
    """The tree that ``text`` spells.

    Raises:
        ValueError: none.
    """
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: Object(map(list, pairs)))
    except RecursionError:
        raise ValueError("too deep") from None


def dump(tree: Tree) -> bytes:
    """JSON of ``tree``."""
    return _text(tree).encode("utf-8", "surrogatepass")


def _text(tree: Tree) -> str:
    if isinstance(tree, Raw):
        return tree
    if isinstance(tree, Object):
        return "{" + ", ".join(f"{_text(key)}: {_text(value)}" for key, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_text, tree)) + "]"
    return json.dumps(tree, ensure_ascii=False)


def mutate(rng: Random, tree: Tree, other: Tree) -> Tree:
    """``tree``, which may be altered, after a few changes; ``other`` gives values and keys."""
    root: list[Any] = [tree]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        places = list(_places(root))
        rng.choice(_CHANGES)(rng, places, other)
    return root[0]


def value(rng: Random) -> Tree:
    """Something that breaks readers."""
    return rng.choice(STRINGS) if rng.random() < 0.4 else rng.choice(VALUES)


def _places(root: list[Any]) -> list[Place]:
    """Every value in ``root``, one level after the other."""
    found: list[Place] = [(root, 0)]
    for holder, at in found:
        each = holder[at]
        if isinstance(each, Object):
            found += [(pair, 1) for pair in each]
        elif isinstance(each, list):
            found += [(each, i) for i in range(len(each))]
        if len(found) > 20_000:
            break
    return found


def _pick(rng: Random, places: list[Place], kind: type = object) -> Place | None:
    fitting = [each for each in places if isinstance(each[0][each[1]], kind)]
    return rng.choice(fitting) if fitting else None


def _copied(tree: Tree) -> Tree:
    return parse(dump(tree)) if isinstance(tree, list) and not _has_raw(tree) else tree


def _has_raw(tree: Tree) -> bool:
    return isinstance(tree, Raw) or (isinstance(tree, list) and any(map(_has_raw, tree)))


def _replace(rng: Random, places: list[Place], other: Tree) -> None:
    holder, at = rng.choice(places)
    holder[at] = value(rng)


def _number(rng: Random, places: list[Place], other: Tree) -> None:
    place = _pick(rng, places, int) or _pick(rng, places, float)
    if place is None:
        return
    holder, at = place
    number = holder[at]
    holder[at] = rng.choice(
        (number + 1, number - 1, -number, number * 2, number * 2**32, float(number), str(number),
         number // 2 if number == number else 0, bool(number), [number])
    )  # fmt: skip


def _string(rng: Random, places: list[Place], other: Tree) -> None:
    place = _pick(rng, places, str)
    if place is None:
        return
    holder, at = place
    text, nasty = str(holder[at]), rng.choice(STRINGS)
    cut = rng.randint(0, len(text))
    holder[at] = rng.choice(
        (text[:cut], text[cut:], text[:cut] + nasty + text[cut:], text * 2, text.upper(),
         text[::-1], nasty + text, text + nasty, [text], Object([[text, text]]))
    )  # fmt: skip


def _key(rng: Random, places: list[Place], other: Tree) -> None:
    place = _pick(rng, places, Object)
    if place is None or not place[0][place[1]]:
        return
    found = place[0][place[1]]
    pair = rng.choice(found)
    keys = [each[0] for each in _pairs(other)] + [each[0] for each in found]
    choice = rng.randrange(5)
    if choice == 0:
        found.remove(pair)
    elif choice == 1:
        found.append([pair[0], value(rng)])  # twice
    elif choice == 2:
        pair[0] = rng.choice(STRINGS)
    elif choice == 3:
        pair[0] = rng.choice(keys)
    else:
        found.append([rng.choice(keys) if keys else "x", value(rng)])


def _pairs(tree: Tree) -> list[list[Any]]:
    return [h for h, at in _places([tree]) if len(h) == 2 and at == 1 and isinstance(h[0], str)]


def _swap(rng: Random, places: list[Place], other: Tree) -> None:
    (first, i), (second, j) = rng.choice(places), rng.choice(places)
    one, two = _copied(first[i]), _copied(second[j])
    first[i], second[j] = two, one


def _splice(rng: Random, places: list[Place], other: Tree) -> None:
    holder, at = rng.choice(places)
    source, there = rng.choice(_places([other]))
    holder[at] = _copied(source[there])


def _list(rng: Random, places: list[Place], other: Tree) -> None:
    place = _pick(rng, places, list)
    if place is None or not place[0][place[1]]:
        return
    found = place[0][place[1]]
    choice = rng.randrange(4)
    if choice == 0:
        found.pop(rng.randrange(len(found)))
    elif choice == 1:
        found.insert(0, _copied(rng.choice(found)))
    elif choice == 2:
        rng.shuffle(found)
    elif not isinstance(found, Object):
        found.append(value(rng))


def _wrap(rng: Random, places: list[Place], other: Tree) -> None:
    holder, at = rng.choice(places)
    each = _copied(holder[at])
    holder[at] = rng.choice(([each], Object([["value", each]]), [each, each]))


_CHANGES: Final = (_replace, _replace, _replace, _number, _string, _key, _key, _swap, _splice,
                   _list, _wrap)  # fmt: skip
