"""Keep file descriptors open while a thread uses them."""

from __future__ import annotations

from threading import Condition
from types import TracebackType

from mergesafe.errors import ArgumentError


class OpenFiles:
    """Counts the threads inside ``with files:``; :meth:`shut` waits for them and lets no more in.

    Closing a descriptor under a thread that is about to use it is worse than an error: the
    system may give the number to another file, which that thread then reads or overwrites.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._inside = 0
        self._open = True
        self._changed = Condition()

    def __enter__(self) -> None:
        with self._changed:
            if not self._open:
                raise ArgumentError(f"{self._what} is closed")
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            if not (self._inside or self._open):
                self._changed.notify_all()

    def shut(self) -> None:
        """Refuse new entries and wait until nobody is inside. May be called again."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: self._inside == 0)
