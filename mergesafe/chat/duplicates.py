"""Exact and near duplicates of short texts.

Two texts are near duplicates when the Jaccard similarity |A ∩ B| / |A ∪ B| of their sets of three
consecutive words reaches a threshold. MinHash (Broder 1997) with banding finds the candidates
without comparing all pairs; each is then compared exactly, so nothing is dropped by a hash's error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final

from mergesafe.errors import DataError
from mergesafe.extras import install

WORDS: Final = 3
PERMUTATIONS: Final = 128
#: Share of pairs just at the threshold that the index may miss.
MISSED: Final = 1e-3
#: Chinese, Japanese and Korean characters one by one, words, and signs such as + and -, without
#: which sums and differences would be the same question; not punctuation.
_CJK: Final = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD: Final = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s.,;:!?'\"\u2018-\u201f()\[\]{{}}\u2026]")


def words(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation, and differences of Unicode form."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Every three consecutive words; all of them together where there are fewer."""
    found = words(text)
    count = max(1, len(found) - WORDS + 1)
    return frozenset(found[i : i + WORDS] for i in range(count))


def similarity(first: str, second: str) -> float:
    """The Jaccard similarity of two texts' shingles, in [0, 1]."""
    a, b = shingles(first), shingles(second)
    return len(a & b) / len(a | b)


def bands(threshold: float) -> tuple[int, int]:
    """Bands b and rows r of the index: the longest rows that miss at most one pair in a thousand.

    Two texts of similarity s become candidates with the probability 1 − (1 − s^r)^b.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // rows
        if count > 1 and (1 - threshold**rows) ** count <= MISSED:
            return count, rows
    return PERMUTATIONS, 1


@dataclass
class TextIndex:
    """Texts that later ones are compared with.

    Args:
        threshold: the Jaccard similarity of near duplicates, above 0; from 1 on only texts of
            equal words are duplicates, and nothing but Python is needed.
    """

    threshold: float
    _exact: dict[tuple[str, ...], str] = field(default_factory=dict)
    _texts: list[str] = field(default_factory=list)
    _index: Any = None

    def __post_init__(self) -> None:
        if self.threshold >= 1:
            return
        if find_spec("datasketch") is None:
            raise DataError(
                "finding near duplicates needs the package datasketch: "
                f"{install('generate')}; or set 'near_duplicates: 1' to drop exact ones only"
            )
        from datasketch import MinHashLSH

        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(self.threshold))

    def find(self, text: str) -> str | None:
        """An earlier text that ``text`` duplicates, or None."""
        same = self._exact.get(words(text))
        if same is not None or self._index is None:
            return same
        candidates = sorted(int(key) for key in self._index.query(_minhash(text)))
        close = (self._texts[i] for i in candidates)
        return next((each for each in close if similarity(text, each) >= self.threshold), None)

    def exactly(self, text: str) -> bool:
        """Whether a text of the same words was added."""
        return words(text) in self._exact

    def add(self, text: str) -> None:
        """Remember ``text``."""
        if self.exactly(text):
            return
        self._exact[words(text)] = text
        if self._index is not None:
            self._index.insert(str(len(self._texts)), _minhash(text))
        self._texts.append(text)

    def add_all(self, texts: Iterable[str]) -> None:
        """Remember each of ``texts``."""
        for text in texts:
            self.add(text)


def _minhash(text: str) -> Any:
    from datasketch import MinHash

    sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
    sketch.update_batch([" ".join(each).encode() for each in shingles(text)])
    return sketch
