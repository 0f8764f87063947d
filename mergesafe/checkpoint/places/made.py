"""A folder that lies nowhere: what would be written, made when it is first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from mergesafe.checkpoint.places.files import OpenFile
from mergesafe.checkpoint.places.location import Location, at
from mergesafe.checkpoint.places.remote import RemotePath
from mergesafe.errors import CheckpointError


class MadeFolder:
    """A :class:`~mergesafe.checkpoint.places.remote.RemoteStore` in memory.

    ``text``: what the folder is called in messages. ``copied``: files that lie elsewhere, by their
    names here. ``make``: the content of all others, by name; called once.
    """

    def __init__(
        self, text: str, copied: Mapping[str, Location], make: Callable[[], Mapping[str, bytes]]
    ) -> None:
        self.text = text
        self._copied, self._make = copied, make

    @cached_property
    def _made(self) -> Mapping[str, bytes]:
        return self._make()

    @cached_property
    def _folders(self) -> frozenset[str]:
        names = (*self._copied, *self._made)
        return frozenset(["", *(name.rpartition("/")[0] for name in names)])

    def exists(self, name: str) -> bool:
        return name in self._made or name in self._copied or self.is_dir(name)

    def is_dir(self, name: str) -> bool:
        return name in self._folders

    def names(self, name: str) -> list[str]:
        start = f"{name}/" if name else ""
        inside = (each for each in (*self._copied, *self._made) if each.startswith(start))
        return sorted({each.removeprefix(start).partition("/")[0] for each in inside})

    def open(self, name: str) -> OpenFile:
        if name in self._made:
            return _MadeFile(self._made[name])
        return at(self._elsewhere(name)).open()

    def fingerprint(self, name: str) -> dict[str, Any]:
        if name in self._made:
            data = self._made[name]
            return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return at(self._elsewhere(name)).fingerprint()

    def _elsewhere(self, name: str) -> Location:
        if name not in self._copied:
            raise CheckpointError(f"{self.text}/{name}: no such file.")
        return self._copied[name]


def is_made(location: Location) -> bool:
    """Whether the location lies in a :class:`MadeFolder`, so that nothing is fetched for it."""
    return isinstance(location, RemotePath) and isinstance(location.store, MadeFolder)


class _MadeFile:
    """An open file of a :class:`MadeFolder`."""

    advice = ""
    local = True

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, begin: int, view: memoryview) -> int:
        piece = self._data[begin : begin + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    def advise(self, begin: int, count: int) -> None:
        """Nothing: it is in memory."""

    def changed(self) -> bool:
        return False

    @property
    def state(self) -> None:
        """None: it is no file of the system's."""

    def close(self) -> None:
        """Nothing is held."""
