"""Is a response the right answer? Exact match, generous about the words around it."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Final

#: Commas between groups of three belong to a number; a minus is a sign only where it can be one.
_NUMBER: Final = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_ITEM: Final = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
_ONE: Final = re.compile(rf"[$€£]?{_NUMBER.pattern}\s*%?")
_LIST: Final = re.compile(rf"{_ITEM.pattern}(?:\s*[,;\s]\s*{_ITEM.pattern})+")
_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")


def is_correct(answer: str, response: str) -> bool:
    """Whether ``response`` gives ``answer``.

    - The answer is a *number* (``42``, ``$1,250.50``; after ``####`` as in GSM8K, or after the last
      ``=``): the last number of the response has the same value.
    - The answer is a *list of numbers* (``3, 17, 42``): some line of the response has exactly these
      numbers in this order.
    - Otherwise the response, or one line of it, equals the answer after :func:`normalized`.
    """
    expected = _result(answer)
    if _ONE.fullmatch(expected):
        said = numbers(response)
        return bool(said) and said[-1] == numbers(expected)[-1]
    if _LIST.fullmatch(expected):
        items = _items(expected)
        return any(_items(line) == items for line in response.splitlines())
    wanted = normalized(answer)
    return any(normalized(text) == wanted for text in (response, *response.splitlines()))


def _result(answer: str) -> str:
    """What stands after the last ``####`` or ``=``."""
    return re.split(r"####|=", answer)[-1].strip()


def numbers(text: str) -> list[Decimal]:
    """The numbers of a text: commas between groups of three are left out."""
    return [Decimal(each.replace(",", "")) for each in _NUMBER.findall(text)]


def _items(line: str) -> list[Decimal]:
    """The numbers of a list, between which any comma is a separator."""
    return [Decimal(each) for each in _ITEM.findall(line)]


def normalized(text: str) -> str:
    """Unicode NFKC, case folded, punctuation as spaces, no articles (a, an, the), single spaces.

    In the manner of SQuAD's evaluation (Rajpurkar et al. 2016), for any script.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    spaced = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded)
    return " ".join(_ARTICLES.sub(" ", spaced).split())
