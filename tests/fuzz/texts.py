"""Changes of text in lines: YAML, JSON lines, templates, lists of words."""

from __future__ import annotations

import re
from random import Random
from typing import Final

from fuzz.trees import STRINGS

#: What YAML readers disagree about or stumble over, as a value.
YAML: Final = (
    "", "~", "null", "yes", "No", "on", "0o17", "017", "0x1f", "1:30:00", "190:20", "2001-01-01",
    "2001-12-14t21:59:43.10-05:00", ".inf", "-.INF", ".nan", "1e400", "-1e400", "1e3", "1_000",
    "+1", "0.", ".5", "9" * 5000, "0." + "1" * 5000, "1e" + "9" * 400, '"\\ud800"', '"\\UFFFFFFFF"',
    '"\\x00"', "'", '"', "|\n  x\n", ">-\n x", "? x", "- x", "[", "]", "{", "}", "{a: b", "[a, b",
    "&a x", "*a", "&a [*a]", "&a {b: *a}", "{<<: *a}", "<<: *a", "!!python/object/apply:print []",
    "!!binary x", "!!float x", "!x y", "@x", "`x`", "%x", "#", "\t", "a: b: c", "x" * 100_000,
    "[" * 1000, "{a: " * 50 + "1" + "}" * 50, "[" * 40 + "]" * 40, "[[[]]]", "{}", "[]",
    "&b [1,1]\nb2: &c [*b,*b]\nb3: &d [*c,*c,*c,*c]\nb4: &e [*d,*d,*d,*d]\nb5: &f [*e,*e,*e,*e]\n"
    "b6: &g [*f,*f,*f,*f]\nb7: &h [*g,*g,*g,*g]\nb8: &i [*h,*h,*h,*h]\nb9: &j [*i,*i,*i,*i]",
    "a\n---\nb", "...\n", "\ufeff", "\x85", "\u2028", "\x7f", "\x00",
)  # fmt: skip
_VALUE: Final = re.compile(r"(?<=[:\-,\[{] )[^,\]}\n]+")
_WORD: Final = re.compile(r"[\w.+-]+")


def mutate(rng: Random, text: str, other: str) -> str:
    """``text`` after a few changes; ``other`` gives lines."""
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        text = rng.choice(_CHANGES)(rng, text, other)
    return text


def _value(rng: Random, text: str, other: str) -> str:
    found = list(_VALUE.finditer(text))
    return _put(text, rng.choice(found), rng.choice(YAML)) if found else text + rng.choice(YAML)


def _word(rng: Random, text: str, other: str) -> str:
    found = list(_WORD.finditer(text))
    words = _WORD.findall(other) or ["x"]
    nasty = rng.choice(words) if rng.random() < 0.5 else rng.choice(STRINGS)
    return _put(text, rng.choice(found), nasty) if found else nasty


def _put(text: str, match: re.Match[str], new: str) -> str:
    return text[: match.start()] + new + text[match.end() :]


def _lines(rng: Random, text: str, other: str) -> str:
    lines, more = text.split("\n"), other.split("\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    choice = rng.randrange(7)
    if choice == 0:
        lines.pop(at)
    elif choice == 1:
        lines.insert(to, lines[at])
    elif choice == 2:
        lines[at], lines[to] = lines[to], lines[at]
    elif choice == 3:
        lines[at] = " " * rng.randint(1, 4) + lines[at]
    elif choice == 4:
        lines[at] = lines[at][rng.randint(0, 4) :]
    elif choice == 5:
        begin = rng.randrange(len(more))
        lines[at:at] = more[begin : begin + rng.randint(1, 6)]
    else:
        lines[at] = lines[at] + rng.choice(YAML)
    return "\n".join(lines)


def _insert(rng: Random, text: str, other: str) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice((*YAML, *STRINGS)) + text[at:]


def _cut(rng: Random, text: str, other: str) -> str:
    begin, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    kept = text[:begin] + text[end:]
    return kept if rng.random() < 0.5 else text[:end]


def _again(rng: Random, text: str, other: str) -> str:
    begin = rng.randint(0, len(text))
    piece = text[begin : begin + rng.choice((1, 2, 8, 60))]
    return text[:begin] + piece * rng.choice((2, 40, 5000)) + text[begin:]


_CHANGES: Final = (_value, _value, _word, _word, _lines, _lines, _insert, _cut, _again)
