"""What models have answered so far, so that a run that was killed goes on where it was.

A file of JSON lines in the output folder. Each line holds the results of one piece of work, a
batch that a model answered, under a key that everything the results depend on goes into: models,
prompts, sampling, judge. So a line is used only where the same would be asked again, and a data
recipe may be changed between a run and the one that goes on from it. Each line ends with a digest
of itself: one that a crash cut off is told from a whole one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

from mergesafe.errors import OutputError
from mergesafe.file_lock import take_lock
from mergesafe.private import open_own_file

NAME: Final = ".mergesafe-generate.jsonl"
_DIGEST: Final = 16
Item = TypeVar("Item")


def digest(value: Any) -> str:
    """A short SHA-256 of plain data."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Journal:
    """The journal of ``folder``, held by one process at a time.

    Use as a context manager. ``reused`` counts pieces that were not done again.
    """

    def __init__(self, folder: Path) -> None:
        """Open the journal, with what an earlier run left there.

        Raises:
            OutputError: it cannot be written, or another process is at work in the folder.
        """
        self.path = folder / NAME
        self.reused = 0
        self._known: dict[str, list[Any]] = {}
        try:
            self._file = _opened(self.path)
            take_lock(self._file.fileno())
            self._load()
        except BlockingIOError:
            raise OutputError(
                f"{self.path}: another mergesafe generate writes into this folder; wait for it, or "
                "choose another --out"
            ) from None
        except OSError as error:
            raise self._failed(error) from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._known:
            self.remove()
        self._file.close()

    def remove(self) -> None:
        """All that it helped to make is in place."""
        self.path.unlink(missing_ok=True)

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
                self._append(key, found)
            else:
                self.reused += 1
            results += found
            done(len(piece))
        return results

    def _load(self) -> None:
        """Read the whole lines; what follows the first line that is not whole is cut off."""
        self._file.seek(0)
        good = 0
        for line in self._file:
            entry = _parsed(line)
            if entry is None:
                break
            self._known[entry[0]] = entry[1]
            good += len(line)
        self._file.truncate(good)
        self._file.seek(0, os.SEEK_END)

    def _append(self, key: str, results: list[Any]) -> None:
        body = json.dumps([key, results], ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            self._file.write(body + b"\t" + _mark(body) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from None
        self._known[key] = results

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: cannot be written ({error.strerror}); check the folder, its permissions "
            "and the disk"
        )


def _opened(path: Path) -> BinaryIO:
    """The journal, for this user alone: it holds answers to questions of every kind."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    return cast(BinaryIO, os.fdopen(open_own_file(path, flags), "a+b"))


def _mark(body: bytes) -> bytes:
    return sha256(body).hexdigest()[:_DIGEST].encode()


def _parsed(line: bytes) -> tuple[str, list[Any]] | None:
    body, tab, mark = line.rpartition(b"\t")
    if not tab or mark != _mark(body) + b"\n":
        return None
    try:
        # Half of a surrogate pair, which a model may have answered, is written as it is.
        entry = json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, list) or len(entry) != 2:
        return None
    key, results = entry
    return (key, results) if isinstance(key, str) and isinstance(results, list) else None
