"""Entries of a zip archive, those that are compressed by Zstandard too, which Inspect writes.

``zipfile`` reads these from Python 3.14 on; before, the package zstandard does.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Final

from mergesafe.errors import DataError
from mergesafe.extras import install

#: Bytes of all entries together.
LARGEST: Final = 1 << 30
_ZSTANDARD: Final = 93
#: The size of a frame that does not say it.
_UNKNOWN: Final = -1
#: Of a local header, and where in it the lengths of name and extra field are.
_LOCAL: Final = 30
_LENGTHS: Final = struct.Struct("<26xHH")
#: What a damaged archive raises.
DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, struct.error,
)  # fmt: skip


class Archive:
    """The entries of ``data``, by name.

    Raises:
        DataError: they unpack to more than :data:`LARGEST` bytes.
        zipfile.BadZipFile: it is no archive.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        self._data, self._path = data, path
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        self.entries = {info.filename: info for info in self._zip.infolist()}
        if sum(info.file_size for info in self.entries.values()) > LARGEST:
            raise DataError(
                f"unpacks to more than {LARGEST >> 30} GiB; export fewer samples", source=path
            )

    def read(self, name: str) -> bytes:
        """The content of an entry.

        Raises:
            KeyError: there is none of this name.
            DataError: the package zstandard is needed.
        """
        info = self.entries[name]
        if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # As many bytes as it says that it has: without a number, zipfile unpacks 2 GiB of what
            # claims a hundred bytes. Its checksum is compared at the last one.
            with self._zip.open(info) as entry:
                return entry.read(info.file_size + 1)
        if info.compress_type != _ZSTANDARD:
            raise zipfile.BadZipFile(f"{name} is compressed by method {info.compress_type}")
        try:
            import zstandard
        except ImportError:
            raise DataError(
                f"is compressed by Zstandard, which needs the package zstandard: {install('logs')}",
                source=self._path,
            ) from None
        lengths = _LENGTHS.unpack_from(self._data, info.header_offset)
        begin = info.header_offset + _LOCAL + sum(lengths)
        packed = self._data[begin : begin + info.compress_size]
        try:
            # Where the frame says its size, zstandard allocates that, whatever it may be.
            if zstandard.frame_content_size(packed) not in (info.file_size, _UNKNOWN):
                raise zipfile.BadZipFile(f"{name} is damaged")
            found: bytes = zstandard.ZstdDecompressor().decompress(
                packed, max_output_size=max(1, info.file_size)
            )
        except zstandard.ZstdError as error:
            raise zipfile.BadZipFile(f"{name}: {error}") from None
        if len(found) != info.file_size or zlib.crc32(found) != info.CRC:
            raise zipfile.BadZipFile(f"{name} is damaged")
        return found
