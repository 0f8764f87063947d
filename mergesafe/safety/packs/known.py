"""Questions of packs, by digest, so that a file can be told to be one of them.

The digests of packs whose questions are public in packages ship with mergesafe; those of packs on
the web are known once the pack was fetched. ``python -m mergesafe.safety.packs.known`` writes the
former anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from mergesafe.chat.conversation import last_question
from mergesafe.errors import MergesafeError
from mergesafe.safety.packs.fetch import present
from mergesafe.safety.packs.read import read_pack
from mergesafe.safety.packs.table import PACKS, PackageFile

_FILE: Final = "known.txt"
#: Hexadecimal digits of a digest: among a million questions, two are alike once in 10⁷ times.
_DIGITS: Final = 16


def digest(text: str) -> str:
    """Of a question, whatever its case and spacing."""
    plain = " ".join(text.split()).casefold()
    return hashlib.sha256(plain.encode("utf-8", "backslashreplace")).hexdigest()[:_DIGITS]


def known_packs(questions: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Sets of packs that hold some of ``questions``: how many of them, and of how many.

    Of packs on the web only those that were fetched are known.
    """
    asked = set(map(digest, questions))
    return {
        name: (len(asked & digests), len(digests))
        for name, digests in (*_shipped().items(), *_fetched())
        if asked & digests
    }


@cache
def _shipped() -> dict[str, frozenset[str]]:
    text = (files("mergesafe.safety.packs") / _FILE).read_text("ascii")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return {name: frozenset(values) for name, values in found.items()}


def _fetched() -> Iterator[tuple[str, frozenset[str]]]:
    for pack in PACKS.values():
        sources = [source for each in pack.sets for source in each.sources]
        if isinstance(sources[0], PackageFile) or not all(map(present, sources)):
            continue
        try:
            sets = read_pack(pack.name)
        except MergesafeError:
            continue  # who evaluates with the pack is told what is wrong with it
        for each in sets:
            asked = (last_question(record.conversation) for record in each.records)
            yield each.name, frozenset(map(digest, asked))


def write() -> None:
    """Write the digests of the packs that installed packages ship."""
    lines = [
        f"{each.name} {digest(last_question(record.conversation))}\n"
        for pack in PACKS.values()
        if isinstance(pack.sets[0].sources[0], PackageFile)
        for each in read_pack(pack.name)
        for record in each.records
    ]
    Path(str(files("mergesafe.safety.packs") / _FILE)).write_text("".join(lines), "ascii")


if __name__ == "__main__":
    write()
