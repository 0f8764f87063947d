"""Markdown with names and messages that strangers had a part in.

Model cards and data cards are published, and are shown as pages: a tensor's name must not become a
link, an image, a heading, an element of HTML or a change of the writing direction there.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_INVISIBLE: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
#: Joiners are part of how Persian, Indic scripts and emoji are written.
_KEPT: Final = frozenset("\u200c\u200d")
#: What begins markup within a line. Underscores do so only around words, and change but the font.
_MARKUP: Final = re.compile(r"[\\`*\[\]~$|]|(?<=:)//|@(?=\w)|(?<=www)\.|(?<=WWW)\.")
_ELEMENTS: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
#: What begins a block at the begin of a line or of an item of a list.
_BLOCK: Final = re.compile(r"(?:[#+=-]|\d{1,9}(?=[.)]))")
_RUN: Final = re.compile(r"`+")


def plain(text: str) -> str:
    """``text`` on one line, what is not seen as escapes."""
    joined = " ".join(text.split())
    if joined.isascii() and joined.isprintable():
        return joined
    return "".join(
        c if c in _KEPT or unicodedata.category(c) not in _INVISIBLE else ascii(c)[1:-1]
        for c in joined
    )


def escaped(text: str) -> str:
    """``text`` on one line, which a page shows as it is."""
    shown = _MARKUP.sub(lambda found: f"\\{found[0]}", plain(text))
    for element, entity in _ELEMENTS.items():
        shown = shown.replace(element, entity)
    begin = _BLOCK.match(shown)
    if begin is None:
        return shown
    digits = begin[0] if begin[0].isdigit() else ""
    return f"{digits}\\{shown[len(digits) :]}"


def code(text: str) -> str:
    """``text`` as a span of code, which nothing in it ends."""
    shown = plain(text)
    fence = "`" * (1 + longest_run(shown))
    # A backtick beside the fence would be a part of it; of spaces on both sides one is taken away.
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}" if shown else "(empty)"


def longest_run(text: str) -> int:
    """The longest run of backticks."""
    return max((len(run) for run in _RUN.findall(text)), default=0)
