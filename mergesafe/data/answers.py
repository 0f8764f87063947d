"""What models have answered so far, so that a run that was killed goes on where it was.

A journal in the output folder. Each record holds the results of one piece of work, a batch that a
model answered, under a key that everything the results depend on goes into: models, prompts,
sampling, judge. So a record is used only where the same would be asked again, and a data recipe may
be changed between a run and the one that goes on from it: the header says nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from mergesafe.journal import Journal, Kind

NAME: Final = ".mergesafe-generate.jsonl"
Item = TypeVar("Item")


def _is_record(value: Any) -> bool:
    """A key and the results under it."""
    return isinstance(value, list) and [type(each) for each in value] == [str, list]


GENERATE: Final = Kind(
    command="generate",
    work="generation",
    option="--out",
    afresh="Restore the file, or start anew with --overwrite in place of --resume, which asks all "
    "models again.",
    headerless=_is_record,
)


def digest(value: Any) -> str:
    """A short SHA-256 of plain data."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Answers:
    """The answers in the journal of ``folder``, held by one process at a time.

    Use as a context manager. ``reused`` counts pieces that were not done again.
    """

    def __init__(self, folder: Path, *, resume: bool = True) -> None:
        """Open the journal, with what an earlier run left there if ``resume``.

        Raises:
            OutputError: it cannot be written, another process is at work in the folder, or the
                journal is damaged.
        """
        self.reused = 0
        self._journal = Journal(folder / NAME, GENERATE)
        try:
            found = self._journal.read() if resume else None
            records = [] if found is None else list(filter(_is_record, found.records))
            self._journal.begin({}, records)
        except BaseException:
            self._journal.close()
            raise
        self._known: dict[str, list[Any]] = dict(records)

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.__exit__(*error)

    def remove(self) -> None:
        """All that they helped to make is in place."""
        self._journal.remove()

    def pieces(
        self,
        subject: Any,
        items: Sequence[Item],
        size: int,
        work: Callable[[int, Sequence[Item]], list[Any]],
        done: Callable[[int], None] = lambda count: None,
        fits: Callable[[Any], bool] = lambda result: True,
    ) -> list[Any]:
        """``work`` of ``items``, in pieces of ``size``, those that are known taken from the file.

        ``subject`` and the items of a piece are plain data and decide its key, as does its place:
        sampling the same prompts twice gives two answers. ``work(place, piece)`` gives one result,
        plain data, for each item. ``done`` hears how many items each piece had. ``fits``: whether a
        value is a result of ``work``: who writes into the folder may have written the file.
        """
        results: list[Any] = []
        for begin in range(0, len(items), size):
            piece = items[begin : begin + size]
            key = digest([subject, begin, piece])
            found = self._known.get(key)
            if found is None or len(found) != len(piece) or not all(map(fits, found)):
                found = work(begin, piece)
                self._journal.append([key, found])
                self._known[key] = found
            else:
                self.reused += 1
            results += found
            done(len(piece))
        return results
