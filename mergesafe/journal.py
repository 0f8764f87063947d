"""The journal of a command: what it has finished, in a file that ``--resume`` goes on from.

A text file of one record a line, to which lines are only added. The first line, the header, names
the command and what its work depends on, so that nothing is resumed that was begun otherwise. A
line is JSON in ASCII, a tab, 16 hexadecimal digits of the SHA-256 of that JSON, and a line feed:
one that a crash cut off is told from a whole one.

What a crash may damage is the end, from the first line that was not yet synced. Damage there is cut
off, and costs that work. Damage before it is none that a crash makes: such a journal is refused,
since nobody knows what else its disk has lost. Which lines were synced is known from those behind
them: where every line is synced before the next is written, any whole line tells; else the marks
that :meth:`Journal.sync` leaves do.

The file is this user's alone, opened without following a link, and locked while a command is at
work. Its header, and what is taken over from an earlier run, are written to a sibling that takes
its place once it is synced: at no moment is there less than before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from mergesafe.errors import OutputError
from mergesafe.file_lock import take_lock
from mergesafe.private import (
    NotPrivateError,
    Place,
    close,
    create_file,
    folder_of,
    is_same,
    open_file,
    open_own_file,
)
from mergesafe.system_faults import advice
from mergesafe.whole_file import sync_folder

Line = dict[str, Any]
#: Of the lines and the header, not of what commands write into them.
_FORMAT: Final = 2
_KIND: Final = "mergesafe_journal"
_MARK: Final = {"synced": True}
_DIGITS: Final = 16
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
#: Somebody who takes the file away as often as this does so on purpose.
_ATTEMPTS: Final = 100


@dataclass(frozen=True)
class Kind:
    """The journals of one command.

    ``command``: as after ``mergesafe``, and in the header. ``work``: what messages call what it
    does. ``option``: the one that names another output. ``afresh``: what to do where a journal
    cannot be used. ``sync_lines``: whether every line is synced before the next is written.
    ``limit``: bytes that no such journal has. ``headerless``: whether a record may come first, as
    this command wrote it in version 0.1.0.
    """

    command: str
    work: str
    option: str
    afresh: str
    sync_lines: bool = True
    limit: int | None = None
    headerless: Callable[[Any], bool] | None = None

    def refusal(self, path: Path, why: str) -> OutputError:
        """The error for work that is not resumed."""
        return OutputError(
            f"{path}: the unfinished {self.work} cannot be resumed: {why}. {self.afresh}"
        )

    def at_work(self, path: Path) -> OutputError:
        return OutputError(
            f"{path}: another mergesafe {self.command} is at work on this output; wait for it, or "
            f"choose another {self.option}"
        )


@dataclass
class Contents:
    """What a journal says. ``subject``: what its work depends on; None without a header."""

    subject: Line | None
    records: list[Any] = field(default_factory=list)


class Journal:
    """The journal at ``place``, held by one process at a time. Not thread-safe.

    :meth:`read` what an earlier run left, :meth:`begin`, then :meth:`append`. As a context manager
    it removes the file at the end where nothing is in it.

    Raises:
        OutputError: it cannot be written, is not a file of this user's, or another process has it.
    """

    def __init__(self, place: Place | Path, kind: Kind) -> None:
        if isinstance(place, Path):
            place = Place(None, str(place), place)
        self.path, self.kind = place.path, kind
        self._place, self._removed = place, False
        #: Bytes of whole lines.
        self._size = 0
        #: How many records are among them, once it is begun.
        self._count: int | None = None
        self._contents: Contents | None = None
        try:
            self._descriptor = self._held()
        except BlockingIOError:
            raise kind.at_work(self.path) from None
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        count = self._count
        if (os.fstat(self._descriptor).st_size if count is None else count) == 0:
            self.remove()
        self.close()

    def read(self) -> Contents | None:
        """What an earlier run left; None where it left nothing.

        Raises:
            OutputError: it is too large, damaged where no crash damages it, of another command or
                of a version that wrote other lines; or it cannot be read.
        """
        limit = self.kind.limit
        lines: list[Any] = []
        size = damaged = 0
        try:
            if limit is not None and os.fstat(self._descriptor).st_size > limit:
                raise self.kind.refusal(
                    self.path, f"its journal is larger than {limit:,} bytes, which none is"
                )
            with open(self._descriptor, "rb", closefd=False) as file:
                file.seek(0)
                for number, line in enumerate(file, 1):
                    record = decode_line(line)
                    if record is not None and not damaged:
                        lines.append(record)
                        size += len(line)
                    elif record is None:
                        damaged = damaged or number
                    elif self.kind.sync_lines or record == _MARK:
                        raise self._damaged(damaged)
        except OSError as error:
            raise self._failed(error, "read") from error
        if not lines:
            if damaged:  # it is written whole or not at all
                raise self._damaged(1)
            return None
        self._contents, self._size = self._parted(lines), size
        return self._contents

    def begin(self, subject: Line, records: Iterable[Any] = ()) -> None:
        """Make it the journal of work that depends on ``subject``, with ``records``, durably.

        What else is there is dropped. ``subject`` is plain data, by names.
        """
        kept = list(records)
        header = {_KIND: self.kind.command, "format": _FORMAT, "subject": subject}
        try:
            if self._contents == Contents(subject, kept):  # all but a torn end
                os.ftruncate(self._descriptor, self._size)
                os.fsync(self._descriptor)
            else:
                self._replace(b"".join(map(encode_line, [header, *kept])))
        except OSError as error:
            raise self._failed(error) from error
        self._contents, self._count = None, len(kept)

    def append(self, record: Any) -> None:
        """Add finished work: plain data other than a mark of :meth:`sync`."""
        self._add(record)
        self._count = (self._count or 0) + 1

    def sync(self) -> None:
        """Make all lines durable, and say so in the next one."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._failed(error) from error
        self._add(_MARK)

    def remove(self) -> None:
        """The work is finished, or there was none. What another puts there later is its own."""
        if not self._removed:
            with suppress(FileNotFoundError):
                os.unlink(self._place.name, dir_fd=self._place.folder)
            self._removed = True

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            close(self._descriptor)
            self._descriptor = -1

    def _held(self) -> int:
        """Descriptor of the file, made where it is missing and locked."""
        name, folder = self._place.name, self._place.folder
        with suppress(FileNotFoundError):
            os.lstat(self._sibling, dir_fd=folder)  # a name that is too long makes nothing
        for _ in range(_ATTEMPTS):
            descriptor = open_own_file(name, os.O_RDWR | os.O_CREAT, folder)
            try:
                take_lock(descriptor)
                if is_same(descriptor, name, folder):
                    self._unlink_sibling()
                    return descriptor
            except BaseException:
                close(descriptor)
                raise
            close(descriptor)  # the run that held it finished, or began it anew, in between
        raise NotPrivateError("something removes the file again and again")

    @property
    def _sibling(self) -> str:
        return f"{self._place.name}.new"

    def _unlink_sibling(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._sibling, dir_fd=self._place.folder)  # of a run that was killed

    def _replace(self, content: bytes) -> None:
        name, folder = self._place.name, self._place.folder
        self._unlink_sibling()
        new = create_file(self._sibling, folder, 0o600)
        try:
            take_lock(new)
            _write(new, content, 0)
            os.fsync(new)
            os.replace(self._sibling, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(self._sibling, dir_fd=folder)
            close(new)
            raise
        close(self._descriptor)
        self._descriptor, self._size = new, len(content)
        if folder is not None:
            sync_folder(folder)
        else:
            with folder_of(self.path) as above:
                sync_folder(above)

    def _add(self, record: Any) -> None:
        line = encode_line(record)
        try:
            # At its place, not at the end: what a write that failed left there is written over.
            _write(self._descriptor, line, self._size)
            if self.kind.sync_lines:
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._failed(error) from error
        self._size += len(line)

    def _parted(self, lines: list[Any]) -> Contents:
        """Header and records, without marks."""
        header, *records = lines
        if self.kind.headerless is not None and self.kind.headerless(header):
            return Contents(None, lines)
        if not isinstance(header, dict) or _KIND not in header:
            raise self._damaged(1)
        wanted = self.kind.command, _FORMAT
        if (header[_KIND], header.get("format")) != wanted:
            command, number = wanted
            raise self.kind.refusal(
                self.path,
                f"line 1 of its journal is not that of a mergesafe {command} of format {number}",
            )
        subject = header.get("subject")
        if not isinstance(subject, dict):
            raise self.kind.refusal(self.path, "its journal does not say what it is of")
        return Contents(subject, [each for each in records if each != _MARK])

    def _damaged(self, number: int) -> OutputError:
        why = f"line {number} of its journal is damaged, which no crash does"
        if number == 1:
            why = "line 1 of its journal is damaged, or of an earlier version of mergesafe"
        return self.kind.refusal(self.path, why)

    def _failed(self, error: OSError, what: str = "written") -> OutputError:
        return OutputError(
            f"{self.path}: the journal cannot be {what} ({error.strerror}). {advice(error)}"
        )


def is_left(path: Path, kind: Kind) -> bool:
    """Whether a run that is over left something in the journal at ``path``.

    Raises:
        OutputError: the run is not over: another process holds the file.
        OSError: no file may bear this name.
    """
    if not path.exists() or not path.stat().st_size:
        return False
    try:
        descriptor = open_file(path)
        try:
            take_lock(descriptor, shared=True)
        finally:
            close(descriptor)
    except BlockingIOError:
        raise kind.at_work(path) from None
    except OSError:
        pass  # gone by now, or what cannot be read or locked is said when it is opened
    return True


def encode_line(record: Any) -> bytes:
    """A line: the record, a digest of it, and a line's end."""
    # Floats are written with all their digits, and NaN and infinity as Python reads them.
    content = _encode(record).encode()
    return content + b"\t" + _digest(content) + b"\n"


def decode_line(line: bytes) -> Any:
    """The record of a line; None where the line is damaged or cut off."""
    content, tab, digest = line.rpartition(b"\t")
    if not tab or digest != _digest(content) + b"\n":
        return None
    try:
        # Version 0.1.0 wrote text as it is, half a surrogate pair included.
        return json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def _digest(content: bytes) -> bytes:
    return sha256(content).hexdigest()[:_DIGITS].encode()


def _write(descriptor: int, content: bytes, begin: int) -> None:
    data = memoryview(content)
    while data:
        count = os.pwrite(descriptor, data, begin)
        data, begin = data[count:], begin + count
