"""Pickles in files of any name and in archives, found by what the files hold.

Runs where it can be stopped: files and archives of strangers ask for any time and memory.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, Final

from mergesafe.safety.vet.opcodes import END, disassemble
from mergesafe.safety.vet.training_trace import IMPORTS, is_trace
from mergesafe.safety.vet.training_trace import NAME as TRACE

#: Bytes of a member of an archive, or of what was compressed, that are looked at.
_MEMBER: Final = 64 << 20
#: Bytes of all of them in one file, and how many there may be.
_ALL: Final = 256 << 20
_MEMBERS: Final = 100_000
#: Archives within archives.
_DEPTH: Final = 3
#: First bytes of a member that show what it is.
_HEAD: Final = 4096
#: Names of what is loaded as a pickle, and must be one.
PICKLES: Final = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt")
_NUMPY: Final = b"\x93NUMPY"
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_COMPRESSED: Final[tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...]] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"\x5d\x00\x00", lzma.LZMAFile),
    *((bytes((0x78, level)), lambda file: _Inflated(file)) for level in (0x01, 0x5E, 0x9C, 0xDA)),
)
_OTHER: Final = {
    b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar", b"\x1f\x9d": "compress", b"\x02\x21\x4c\x18": "lz4",
}  # fmt: skip


class ContentError(Exception):
    """A file of which cannot be told what it would do; the message says why."""


@dataclass
class Contents:
    """``pickle``: whether the file holds one. ``imports``: what that imports besides data.

    ``problem``: why it cannot be told; ``closed``: how it is compressed if it is not looked into.
    ``trace``: whether it is what a training leaves, which imports but runs nothing else.
    """

    pickle: bool = False
    imports: dict[str, None] = field(default_factory=dict)
    problem: str = ""
    closed: str = ""
    trace: bool = False


def look(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each of the ``files`` holds.

    A file takes ``each`` seconds at most. After ``seconds`` the answer ends with those that were
    looked at.
    """
    found = []
    end = time.monotonic() + given["seconds"]
    for path in given["files"]:
        if time.monotonic() > end:
            break
        each = contents(path, min(end, time.monotonic() + given["each"]))
        found.append(
            {
                "pickle": each.pickle,
                "imports": list(each.imports)[:100],
                "problem": each.problem[:400],
                "closed": each.closed,
                "trace": each.trace,
            }
        )
    return found


def contents(path: str, end: float) -> Contents:
    """What one file holds, of whatever kind."""
    found = Contents()
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            _Look(found, end).at(file, size, path.lower().endswith(PICKLES))
        known = os.path.basename(path) == TRACE and found.imports.keys() <= IMPORTS
        found.trace = known and is_trace(path)
    except ContentError as error:
        found.problem = str(error)
    except TimeoutError:
        found.problem = "looking through it takes too long"
    except MemoryError:
        found.problem = "looking through it takes too much memory"
    except RecursionError:
        found.problem = "it is nested too deeply"
    except OSError as error:
        found.problem = f"cannot be read ({error.strerror or error})"
    return found


def _opened(path: str) -> BinaryIO:
    """The file, if it is one: pipes wait for a writer, devices have no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ContentError("it is no file")
    return os.fdopen(descriptor, "rb")


@dataclass
class _Look:
    """One file with all that it holds."""

    found: Contents
    end: float
    left: int = _ALL
    members: int = _MEMBERS

    def at(self, file: BinaryIO, size: float, named: bool, depth: int = 0) -> None:
        """Look at what begins here as everything that it may be: one file can be several things.

        ``size``: of the whole, of which ``file`` may hold the beginning only.
        """
        if time.monotonic() > self.end:
            raise TimeoutError
        head = file.read(_HEAD)
        inside = [look for is_it, look in (
            (head.startswith(_ZIP) or (size >= 22 and zipfile.is_zipfile(file)), self._zip),
            (_is_tar(head), self._tar),
            (_compression(head) is not None, self._compressed),
        ) if is_it]  # fmt: skip
        if inside and depth >= _DEPTH:
            raise ContentError("it holds archives within archives")
        array = head.startswith(_NUMPY)
        self._pickles(file, size, named, strict=named and not inside and not array)
        if array:
            self._array(file, size, head)
        for look in inside:
            file.seek(0)
            look(file, head, depth)
        closed = (name for mark, name in _OTHER.items() if head.startswith(mark))
        self.found.closed = self.found.closed or next(closed, "")

    def _pickles(self, file: BinaryIO, size: float, named: bool, *, strict: bool) -> None:
        """Pickles in a row; ``strict``: the first one must be one."""
        file.seek(0)
        first = True
        while file.tell() < size:
            program = disassemble(file, size, self.end, plain=not (first and named))
            if program.runs or (program.ended and (strict or program.marked or not first)):
                self.found.pickle = True
                self.found.imports.update(dict.fromkeys(program.foreign))
            # Numbers and text that begin as a pickle does: loading them does nothing but fail.
            if not program.ended:
                cut = program.runs and not program.foreign
                if first and (strict or cut):
                    self.found.pickle = True
                    if not program.foreign:
                        raise ContentError(f"it does not parse ({program.problem})")
                return
            first = False

    def _array(self, file: BinaryIO, size: float, head: bytes) -> None:
        """numpy keeps arrays of objects as a pickle behind its header."""
        width = 2 if head[6:7] == b"\x01" else 4
        start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
        if start <= len(head) and not _holds_objects(head[8 + width : start]):
            return
        self.found.pickle = True
        file.seek(min(start, _MEMBER))
        program = disassemble(file, size, self.end)
        self.found.imports.update(dict.fromkeys(program.foreign))
        if not program.ended and not program.foreign:
            raise ContentError(f"its array of objects does not parse ({program.problem})")

    def _zip(self, file: BinaryIO, head: bytes, depth: int) -> None:
        try:
            archive = zipfile.ZipFile(file)
        except (MemoryError, TimeoutError):
            raise
        except Exception as error:  # whatever malformed bytes lead to
            if head.startswith(_ZIP):
                raise ContentError(f"its archive cannot be read ({error})") from None
            return
        with archive:
            for each in archive.infolist():
                opened = partial(archive.open, each)
                self._member(opened, depth, each.filename, each.file_size)

    def _tar(self, file: BinaryIO, head: bytes, depth: int) -> None:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for each in archive:
                    if each.isreg():
                        opened = partial(archive.extractfile, each)
                        self._member(opened, depth, each.name, each.size)
        except (ContentError, MemoryError, TimeoutError):
            raise
        except Exception as error:
            raise ContentError(f"its archive cannot be read ({error})") from None

    def _compressed(self, file: BinaryIO, head: bytes, depth: int) -> None:
        opened = _compression(head)
        if opened is not None:
            self._member(partial(opened, file), depth, "", None, sure=not head.startswith(b"x"))

    def _member(
        self,
        opened: Callable[[], Any],
        depth: int,
        name: str,
        size: int | None,
        *,
        sure: bool = True,
    ) -> None:
        """Look at one member; one that cannot be of interest is not read beyond its beginning.

        ``size``: None where it is not known. ``sure``: whether it must be possible to read it.
        """
        self.members -= 1
        if self.members < 0:
            raise ContentError(f"it holds more than {_MEMBERS:,} members")
        named = name.lower().endswith(PICKLES)
        try:
            with opened() as member:
                data = member.read(_HEAD)
                if size is None or named or _may_be_more(data, size):
                    data += member.read(min(_MEMBER, max(self.left, 0)) + 1 - len(data))
                    self.left -= len(data)
        except (MemoryError, TimeoutError):
            raise
        except Exception as error:  # encrypted, damaged, an unknown way of compression
            if sure:
                raise ContentError(f"its member {name!r} cannot be read ({error})") from None
            return
        if self.left < 0:
            raise ContentError(f"it holds more than {_ALL >> 20} MiB of pickles and archives")
        whole = len(data) <= _MEMBER
        self.at(io.BytesIO(data), len(data) if whole else float("inf"), named, depth + 1)


class _Inflated(io.RawIOBase):
    """The text that zlib compressed, as joblib does it."""

    def __init__(self, file: BinaryIO):
        self._file, self._object = file, zlib.decompressobj()

    def read(self, size: int = -1) -> bytes:
        found = b""
        while len(found) < size and not self._object.eof:
            data = self._object.unconsumed_tail or self._file.read(1 << 16)
            if not data:
                break
            found += self._object.decompress(data, size - len(found))
        return found


def _may_be_more(head: bytes, size: int) -> bool:
    """Whether a member of ``size`` bytes that begins so has to be read as a whole."""
    if head.startswith((*_ZIP, _NUMPY)) or _is_tar(head) or _compression(head) is not None:
        return True
    program = disassemble(io.BytesIO(head), size, float("inf"), plain=True)
    return program.problem == END and size > len(head)


def _holds_objects(header: bytes) -> bool:
    """Whether numpy's header names the type of objects, or cannot be told not to.

    numpy reads it as a Python literal, in which a text has many spellings, and knows the type by
    several names: ``'|O'``, ``'object'``, ``'i8,O'``.
    """
    try:
        waiting = [ast.literal_eval(header.decode("latin-1").strip())["descr"]]
        while waiting:
            found = waiting.pop()
            if isinstance(found, str):
                if "O" in found or "object" in found:
                    return True
            elif isinstance(found, tuple):  # a type and a shape
                waiting.append(found[0])
            else:  # fields: the name, the type, perhaps the shape
                waiting += [each[1] for each in found]
    except Exception:  # whatever malformed text leads to
        return True
    return False


def _compression(head: bytes) -> Callable[[BinaryIO], Any] | None:
    return next((opened for mark, opened in _COMPRESSED if head.startswith(mark)), None)


def _is_tar(head: bytes) -> bool:
    """Whether the sum of the header is right; the oldest have no mark."""
    block = head[:512]
    try:
        said = int(block[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return len(block) == 512 and said == sum(block[:148]) + 8 * 32 + sum(block[156:])
