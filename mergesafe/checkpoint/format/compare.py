"""Whether two tensors hold the same bytes."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.places.files import OpenFile
from mergesafe.checkpoint.places.location import at
from mergesafe.errors import CheckpointError
from mergesafe.untrusted import reason

_PIECE: Final = 4 << 20
#: Different tensors mostly differ at once: the first piece is small.
_FIRST: Final = 64 << 10


def same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether type, shape and bytes are equal; reads up to the first difference.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if (one.path, one.offset) == (other.path, other.offset):
        return True
    with closing(at(one.path).open()) as first, closing(at(other.path).open()) as second:
        begin, size = 0, _FIRST
        while begin < one.nbytes:
            # Whole arrays, since those are compared at once and views number by number.
            ours, theirs = (bytearray(min(size, one.nbytes - begin)) for _ in range(2))
            _read(first, one, begin, memoryview(ours))
            _read(second, other, begin, memoryview(theirs))
            if ours != theirs:
                return False
            begin, size = begin + len(ours), _PIECE
    return True


def _read(file: OpenFile, info: TensorInfo, begin: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        try:
            got = file.read(info.offset + begin + done, view[done:])
        except OSError as error:
            raise CheckpointError(
                f"{info.path}: cannot read tensor '{info.name}' ({reason(error)}). {file.advice}"
            ) from error
        if not got:
            raise CheckpointError(
                f"{info.path}: the file ended within tensor '{info.name}'. {file.advice}"
            )
        done += got
