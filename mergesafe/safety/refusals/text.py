"""Responses as the rules read them: one spelling, no quotations, sentence by sentence."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: Characters that are looked at: how a response begins is within them.
BEGINNING: Final = 2000

_PLAIN: Final = {
    **dict.fromkeys((0x2018, 0x2019, 0x02BC, 0x00B4, 0x0060), "'"),
    **dict.fromkeys((0x201C, 0x201D, 0x201E, 0x00AB, 0x00BB), '"'),
    **dict.fromkeys((0x2010, 0x2011, 0x2212), "-"),
    **dict.fromkeys((0x200B, 0x200E, 0x200F, 0xFEFF), None),
}
#: Accents of Latin and Cyrillic, vowel signs and hamza of Arabic, and its stretching sign.
_ACCENTS: Final = re.compile("[\u0300-\u036f\u0640\u064b-\u0655\u0670]")
_QUOTED: Final = re.compile(
    r'"[^"]*"|「[^」]*」|『[^』]*』|(?<!\w)\'(?=\w)[^\n]{2,400}?(?<=[\w.!?,])\'(?!\w)'
)
_MARKS: Final = re.compile(
    r"(?:[\W\d_]|(?:assistant|answer|response|ai|bot|model)\s*:)+(?<!\()", re.UNICODE
)
_HEADING: Final = re.compile(
    r"\s*(?:[^\w\n]*#{1,6}[ \t]+(?P<hash>[^\n]+)"
    r"|[^\w\n*]*(?P<bold>\*\*[^*\n]+\*\*|__[^_\n]+__):?[ \t]*)"
    r"(?:\n|$)"
)
_FIRST: Final = re.compile(
    r".+?(?:[。！？؟।]|[.!?](?:[\"')\]*_]*)(?=\s|$)|;(?=\s)|\n|$)", re.DOTALL
)


def unaccented(text: str) -> str:
    """Without accents, which are often left out: ``désolé`` and ``desole`` are one word."""
    return unicodedata.normalize(
        "NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    ).translate(_PLAIN)


def beginning(response: str) -> str:
    """The beginning in lower case and one spelling, without what it quotes.

    A response that is one whole quotation is read as what it says.
    """
    text = unaccented(response.strip().translate(_PLAIN)[:BEGINNING]).lower()
    spoken = _QUOTED.sub(" ", text)
    return spoken if any(char.isalpha() for char in spoken) else text


def heading(text: str) -> tuple[str, str]:
    """The heading with which ``text`` begins, empty where there is none, and what follows it."""
    found = _HEADING.match(text)
    if found is None:
        return "", text
    title = (found["hash"] or found["bold"]).strip("*_#: \t")
    return title, text[found.end() :]


def unmarked(text: str) -> str:
    """``text`` without list marks, emphasis, numbers and names of a speaker in front of it."""
    found = _MARKS.match(text)
    return text[found.end() :] if found else text


def sentence(text: str) -> str:
    """The first sentence, or line, of ``text``."""
    found = _FIRST.match(text)
    return found[0] if found else ""
