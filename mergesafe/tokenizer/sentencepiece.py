"""Read the pieces of a SentencePiece model (``tokenizer.model``) without the library.

The file is a protocol buffer, ``ModelProto`` of
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto: field 1 is
repeated and holds one piece each, whose field 1 is its text. A piece's id is its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

#: A real vocabulary has some hundred thousand pieces.
_MOST: Final = 1 << 22
#: Wire types of protocol buffers; types 3 and 4 are obsolete, 6 and 7 undefined.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_pieces(data: bytes) -> list[str]:
    """The text of every piece, in the order of ids.

    Raises:
        ValueError: ``data`` is no SentencePiece model.
    """
    pieces: list[str] = []
    for field, kind, begin, end in _fields(data, 0, len(data)):
        if field != 1:
            continue
        if kind != _BYTES or len(pieces) == _MOST:
            raise ValueError("not a SentencePiece model")
        text = None
        for inner, inner_kind, start, stop in _fields(data, begin, end):
            if inner == 1 and inner_kind == _BYTES:
                text = data[start:stop]
        if text is None:
            raise ValueError("not a SentencePiece model")
        pieces.append(text.decode("utf-8", "surrogateescape"))
    if not pieces:
        raise ValueError("not a SentencePiece model")
    return pieces


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, begin, end of the content) of the fields in ``data[at:end]``."""
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == _VARINT:
            begin = at
            _, at = _varint(data, at, end)
        elif kind == _BYTES:
            size, begin = _varint(data, at, end)
            at = begin + size
        elif kind in (_FIXED32, _FIXED64):
            begin = at
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("not a SentencePiece model")
        if at > end or tag < 8:
            raise ValueError("not a SentencePiece model")
        yield tag >> 3, kind, begin, at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("not a SentencePiece model")
