"""The file that a tuning run keeps its state in, line by line: one process at a time holds it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mergesafe.engine.resume.journal import Line, encode_line
from mergesafe.errors import OutputError
from mergesafe.file_lock import take_lock
from mergesafe.private import NotPrivateError, is_same, open_file, open_own_file

#: Somebody who takes the file away as often as this does so on purpose.
_ATTEMPTS: Final = 100


class StateFile:
    """The file at ``path``, held by one process at a time; gone afterwards if nothing is in it.

    Raises:
        OutputError: it cannot be written, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = 0
        self._removed = False
        try:
            self._descriptor = self._held()
        except BlockingIOError:
            raise _at_work(path) from None
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> StateFile:
        return self

    def __exit__(self, *error: object) -> None:
        nothing = _is_empty(self.path) or self._lines == 1  # the subject alone
        if nothing and not self._removed:
            self.remove()
        os.close(self._descriptor)

    def remove(self) -> None:
        """The run is finished."""
        self.path.unlink(missing_ok=True)
        self._removed = True  # what another run puts there from now on is its own

    def text(self) -> str:
        """What the run before left there."""
        try:
            size = os.fstat(self._descriptor).st_size
            with open(self._descriptor, "rb", closefd=False) as file:
                file.seek(0)
                return file.read(size).decode("utf-8", "replace")
        except OSError as error:
            raise self._failed(error) from error

    def begin(self, lines: Sequence[Line]) -> None:
        """Put ``lines`` in the place of what is there, of which they are the start."""
        content = "".join(map(encode_line, lines)).encode()
        try:
            same = os.pread(self._descriptor, len(content), 0) == content
            os.ftruncate(self._descriptor, len(content) if same else 0)
        except OSError as error:
            raise self._failed(error) from error
        if not same:
            self._write(content)
        self._lines = len(lines)

    def append(self, line: Line) -> None:
        """One line more."""
        self._write(encode_line(line).encode())
        self._lines += 1

    def _held(self) -> int:
        for _ in range(_ATTEMPTS):
            descriptor = open_own_file(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                take_lock(descriptor)
                if is_same(descriptor, str(self.path)):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the run that held it finished and removed it in between
        raise NotPrivateError("something removes the file again and again")

    def _write(self, content: bytes) -> None:
        data = memoryview(content)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: the state of the run cannot be kept ({error.strerror}). Free space or "
            "choose another place for the output"
        )


def is_unfinished(path: Path) -> bool:
    """Whether a run that is over left something at ``path``.

    Raises:
        OutputError: the run is not over: another process holds the file.
    """
    if _is_empty(path):
        return False
    try:
        descriptor = open_file(path)
        try:
            take_lock(descriptor, shared=True)
        finally:
            os.close(descriptor)
    except BlockingIOError:
        raise _at_work(path) from None
    except OSError:
        pass  # gone by now, or what cannot be read or locked is told when it is written
    return True


def _is_empty(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _at_work(path: Path) -> OutputError:
    return OutputError(
        f"{path}: another mergesafe tune is at work on this output; wait for it, or choose another "
        "-o"
    )
