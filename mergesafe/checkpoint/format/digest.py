"""A digest of tensor bytes that any worker can compute over any tiles in any order.

The bytes are cut into blocks of 8192, the last of which may be shorter. The digest is the sum over
blocks i of XXH3-128(block, seed = i), modulo 2**128; that of no bytes is 0. Digests of ranges that
begin at multiples of :data:`BLOCK` therefore add up to the digest of the whole, whatever the size
of the tiles. It shows damage, not forgery: XXH3 is fast and not cryptographic.

XXH3: Collet, https://github.com/Cyan4973/xxHash.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergesafe.checkpoint.places.location import at
from mergesafe.errors import ChangedInputError, UnreadableError
from mergesafe.native import extension
from mergesafe.untrusted import reason

if TYPE_CHECKING:
    from mergesafe.checkpoint.format.reader import Reader
    from mergesafe.checkpoint.format.safetensors import TensorInfo

BLOCK: Final = extension.digest_block
ALGORITHM: Final = "sum over 8192-byte blocks i of XXH3-128(block, seed=i), modulo 2**128"
#: Bytes of a tensor that are read at a time.
_PIECE: Final = 512 * BLOCK
_MODULUS: Final = 1 << 128
_TEXT: Final = re.compile(r"[0-9a-f]{32}")


def digest_at(address: int, nbytes: int, first_block: int = 0) -> int:
    """Digest of ``nbytes`` bytes at ``address``, which begin at block number ``first_block``."""
    high, low = extension.digest(address, nbytes, first_block)
    return high << 64 | low


def digest_of(data: bytes | bytearray | memoryview, first_block: int = 0) -> int:
    """Digest of contiguous bytes, which begin at block number ``first_block``."""
    view = memoryview(data)
    if not view.nbytes:
        return 0
    if view.readonly:  # ctypes takes no address of those: one copy
        view = memoryview(bytearray(view))
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    return digest_at(address, view.nbytes, first_block)


def digest_of_tensor(reader: Reader, info: TensorInfo) -> int:
    """Digest of a stored tensor, read piece by piece.

    Raises:
        CheckpointError: it cannot be read.
    """
    return digest_of_range(partial(reader.read_into, info), 0, info.nbytes)


def digest_of_range(read: Callable[[int, memoryview], None], first: int, nbytes: int) -> int:
    """Digest of ``nbytes`` bytes from ``first``, of which ``read(begin, view)`` fills the view."""
    total = 0
    piece = bytearray(min(_PIECE, nbytes))
    for begin in range(0, nbytes, _PIECE):
        view = memoryview(piece)[: min(_PIECE, nbytes - begin)]
        read(first + begin, view)
        total = add(total, digest_of(view, begin // BLOCK))
    return total


def digest_of_file(path: Path) -> int:
    """Digest of a file's bytes, read piece by piece: a file that shrinks is an error, where a
    mapping of it would end the process.

    Raises:
        CheckpointError: it is no regular file, cannot be read, or changes meanwhile.
    """
    total = 0
    with closing(at(path).open()) as file:
        piece = bytearray(min(_PIECE, file.size))
        for begin in range(0, file.size, _PIECE):
            view = memoryview(piece)[: min(_PIECE, file.size - begin)]
            got = 0
            while got < len(view):
                try:
                    count = file.read(begin + got, view[got:])
                except OSError as error:
                    raise UnreadableError(f"{path}: cannot read ({reason(error)}).") from error
                if not count:
                    raise ChangedInputError(f"{path}: the file has shrunk while it was read.")
                got += count
            total = add(total, digest_of(view, begin // BLOCK))
        if file.changed():
            raise ChangedInputError(
                f"{path}: the file was written to while it was read. Leave it alone and run again."
            )
    return total


def add(first: int, second: int) -> int:
    """Digest of two disjoint ranges of one tensor."""
    return (first + second) % _MODULUS


def text(digest: int) -> str:
    """32 hexadecimal digits."""
    return f"{digest:032x}"


def parse(digits: str) -> int:
    """The digest that :func:`text` wrote.

    Raises:
        ValueError: ``digits`` is anything else.
    """
    if not _TEXT.fullmatch(digits):
        raise ValueError(f"{digits!r} is not a digest of 32 hexadecimal digits")
    return int(digits, 16)
