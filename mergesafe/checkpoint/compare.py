"""Whether two tensors hold the same bytes."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from mergesafe.checkpoint._parse import reason
from mergesafe.checkpoint.location import OpenFile, at
from mergesafe.checkpoint.safetensors import TensorInfo
from mergesafe.errors import CheckpointError

_PIECE: Final = 4 << 20


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
        ours, theirs = bytearray(_PIECE), bytearray(_PIECE)
        for begin in range(0, one.nbytes, _PIECE):
            size = min(_PIECE, one.nbytes - begin)
            _read(first, one, begin, memoryview(ours)[:size])
            _read(second, other, begin, memoryview(theirs)[:size])
            if memoryview(ours)[:size] != memoryview(theirs)[:size]:
                return False
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
