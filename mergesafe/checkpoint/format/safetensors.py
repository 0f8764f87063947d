"""The safetensors file format: read and validate a header, build one.

A file is an 8-byte little-endian length N, N bytes of JSON, then the data. The JSON maps each
tensor name to ``{"dtype", "shape", "data_offsets": [begin, end]}`` with offsets relative to the
data, and optionally ``__metadata__`` to an object of strings. A valid file is tiled by its
tensors: no overlap, no gap, nothing after the last one.

Headers are untrusted. Reading one costs memory and time linear in its length, which is bounded,
and everything wrong with it raises :class:`~mergesafe.errors.CheckpointError`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, NoReturn

from mergesafe.checkpoint.places.files import OpenFile
from mergesafe.checkpoint.places.location import Location, at
from mergesafe.checkpoint.places.seen import ShardState
from mergesafe.dtypes import SIZES
from mergesafe.errors import ChangedInputError, CheckpointError, OutputError, UnreadableError
from mergesafe.untrusted import is_text, parse_object, reason, show

#: The format's own bound on the length of the JSON header.
HEADER_LIMIT: Final = 100_000_000
#: Data starts at a multiple of this, as in files that the safetensors library writes. 8 is the
#: largest element size, so ordering by element size keeps every tensor aligned (see layout.py).
ALIGNMENT: Final = 8

#: Dtypes that safetensors defines and mergesafe has no use for.
_UNSUPPORTED: Final = frozenset(
    ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")
)
_FIELDS: Final = frozenset(("dtype", "shape", "data_offsets"))
_METADATA: Final = "__metadata__"
#: Dimensions and offsets beyond this are absurd; stopping there keeps the arithmetic cheap.
_INTEGER_LIMIT: Final = 2**63 - 1
_AGAIN: Final = "The file is damaged or not a safetensors file: download or convert it again."


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: ``nbytes`` bytes at the absolute byte ``offset`` of ``path``.

    ``seen``: what the file was when its header was read; None where that is not to be compared.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Location
    offset: int
    nbytes: int
    seen: ShardState | None = field(default=None, compare=False, repr=False)

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar (shape ``()``)."""
        return self.nbytes // SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Header:
    """Tensors of a file in offset order, its ``__metadata__``, and what the file was."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    seen: ShardState


def read_header(path: Location) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors of the file in offset order, and its ``__metadata__``.

    Raises:
        CheckpointError: the file cannot be read or breaks the format in any way.
    """
    header = header_of(path)
    return header.tensors, header.metadata


def header_of(path: Location) -> Header:
    """All that is read of a file before its tensors are.

    Raises:
        CheckpointError: as :func:`read_header`.
    """
    found, data_start, file_size, seen = _load(path)
    metadata = _check_metadata(path, found.pop(_METADATA, None))
    infos = [_check_entry(path, name, entry, data_start, seen) for name, entry in found.items()]
    infos.sort(key=lambda info: (info.offset, info.nbytes))
    _check_tiling(path, infos, data_start, file_size)
    return Header({info.name: info for info in infos}, metadata, seen)


def header_sha256(file: OpenFile) -> str:
    """Digest of the header of an open file and its length, well-formed or not.

    Raises:
        OSError: it cannot be read.
    """
    prefix = _read(file, 0, 8)
    length = min(int.from_bytes(prefix, "little"), HEADER_LIMIT)
    return sha256(prefix + _read(file, 8, length)).hexdigest()


def build_header(
    entries: Iterable[tuple[str, str, Sequence[int], int]], metadata: dict[str, str]
) -> bytes:
    """Length and JSON for tensors ``(name, dtype, shape, nbytes)`` stored one after the other.

    The JSON is padded with spaces so that data starts at a multiple of :data:`ALIGNMENT`; the
    first tensor's absolute offset is the length of the result.

    Raises:
        OutputError: the header would exceed what the format allows.
    """
    header: dict[str, Any] = {_METADATA: metadata} if metadata else {}
    end = 0
    for name, dtype, shape, nbytes in entries:
        begin, end = end, end + nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > HEADER_LIMIT:
        raise OutputError(
            f"the safetensors header would take {len(text):,} bytes, the format allows "
            f"{HEADER_LIMIT:,}. Use a smaller max_shard_size or less metadata."
        )
    return struct.pack("<Q", len(text)) + text


def _fail(path: Location, problem: str) -> NoReturn:
    raise CheckpointError(f"{path}: {problem} {_AGAIN}")


def _load(path: Location) -> tuple[dict[str, Any], int, int, ShardState]:
    """The parsed JSON, the absolute offset of the data, the size of the file and what it was."""
    try:
        with closing(at(path).open()) as file:
            size = file.size
            prefix = _read(file, 0, 8)
            length = _check_length(path, prefix, size)
            raw = _read(file, 8, length)
            if file.local and file.changed():
                raise ChangedInputError(
                    f"{path}: the file was written to while its header was read. Leave the "
                    "checkpoint alone and run again."
                )
            seen = ShardState(file.state, sha256(prefix + raw).hexdigest())
    except OSError as error:
        raise UnreadableError(f"{path}: cannot read the header ({reason(error)}).") from error
    if len(raw) != length:
        _fail(path, f"the header ends after {len(raw):,} of {length:,} bytes.")
    if not raw.startswith(b"{"):
        _fail(path, f"the header starts with {raw[:1]!r}, expected the '{{' of a JSON object.")
    try:
        # Every entry is checked one by one and what lies deeper is not looked at.
        return parse_object(raw, constants=False, depth=None), 8 + length, size, seen
    except ValueError as error:
        _fail(path, f"the header is {error}.")


def _read(file: OpenFile, begin: int, count: int) -> bytes:
    """Bytes from ``begin``, fewer where the file ends."""
    data, got = bytearray(count), 0
    with memoryview(data) as view:
        while got < count and (more := file.read(begin + got, view[got:])):
            got += more
    return bytes(data[:got])


def _check_length(path: Location, prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        _fail(path, f"the file has {size} bytes, expected at least the 8 of a header length.")
    if prefix == b"version ":
        raise CheckpointError(
            f"{path}: this is a Git LFS pointer, not the weights. Run 'git lfs pull' in the "
            "checkpoint's folder."
        )
    (length,) = struct.unpack("<Q", prefix)
    if length == 0:
        _fail(path, "the header length is 0, expected at least 2.")
    if length > HEADER_LIMIT:
        _fail(path, f"the header claims {length:,} bytes, the format allows {HEADER_LIMIT:,}.")
    if length > size - 8:
        _fail(
            path,
            f"the header claims {length:,} bytes but only {size - 8:,} follow; it is cut off.",
        )
    return int(length)


def _check_metadata(path: Location, value: object) -> dict[str, str]:
    if value is None:  # absent, or null, which the safetensors library reads as no metadata
        return {}
    if not isinstance(value, dict):
        _fail(path, f"{_METADATA} is {show(value)}, expected an object of strings.")
    for key, item in value.items():
        if not is_text(key) or not is_text(item):
            _fail(
                path,
                f"{_METADATA} maps {show(key)} to {show(item)}, expected text to text (no NUL).",
            )
    return value


class _Where:
    """The beginning of an error about one entry, made only when there is one."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return f"tensor {show(self._name)}:"


def _check_entry(
    path: Location, name: str, entry: object, data_start: int, seen: ShardState
) -> TensorInfo:
    if not name or not is_text(name):
        _fail(path, f"the tensor name {show(name)} is empty or not plain text.")
    where = _Where(name)
    if not isinstance(entry, dict):
        _fail(path, f"{where} its entry is {show(entry)}, expected an object.")
    # Further fields mean nothing to the safetensors library either.
    if missing := _FIELDS - entry.keys():
        _fail(path, f"{where} its entry lacks {', '.join(sorted(missing))}.")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        _fail_dtype(path, where, dtype)
    shape = entry["shape"]
    if not isinstance(shape, list) or not all(_is_count(item) for item in shape):
        _fail(path, f"{where} shape is {show(shape)}, expected a list of non-negative integers.")
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        _fail(
            path,
            f"{where} data_offsets is {show(offsets)}, expected two non-negative integers.",
        )
    begin, end = offsets
    if begin > end:
        _fail(path, f"{where} data_offsets begin at {begin:,}, after their end {end:,}.")
    needed = _nbytes(shape, SIZES[dtype])
    if needed is None:
        _fail(path, f"{where} shape {show(shape)} of {dtype} overflows 63 bits.")
    if needed != end - begin:
        _fail(
            path,
            f"{where} data_offsets span {end - begin:,} bytes, but shape {show(shape)} of {dtype} "
            f"takes {needed:,}.",
        )
    return TensorInfo(name, dtype, tuple(shape), path, data_start + begin, needed, seen)


def _fail_dtype(path: Location, where: _Where, dtype: object) -> NoReturn:
    if isinstance(dtype, str) and dtype in _UNSUPPORTED:
        raise CheckpointError(
            f"{path}: {where} dtype {dtype} is not supported. Convert the checkpoint to bf16, "
            f"fp16 or fp32 first (known: {', '.join(SIZES)})."
        )
    _fail(path, f"{where} dtype {show(dtype)} is unknown, expected one of {', '.join(SIZES)}.")


def _is_count(value: object) -> bool:
    """Whether ``value`` is a non-negative integer; ``True`` is an ``int`` only to Python."""
    return type(value) is int and 0 <= value <= _INTEGER_LIMIT


def _nbytes(shape: list[int], size: int) -> int | None:
    """Bytes of the tensor, or None on overflow; checked at each step, so numbers stay small."""
    total = size
    for dimension in shape:
        total *= dimension
        if total > _INTEGER_LIMIT:
            return None
    return total


def _check_tiling(path: Location, infos: list[TensorInfo], data_start: int, file_size: int) -> None:
    """``infos`` (in offset order) must cover the data exactly once."""
    end = data_start
    previous = "the header"
    for info in infos:
        if info.offset < end:
            _fail(
                path,
                f"tensor {show(info.name)} begins at byte {info.offset:,} and overlaps {previous}, "
                f"which ends at {end:,}.",
            )
        if info.offset > end:
            _fail(
                path,
                f"tensor {show(info.name)} begins at byte {info.offset:,}, leaving a gap of "
                f"{info.offset - end:,} bytes after {previous}.",
            )
        end = info.offset + info.nbytes
        if end > file_size:
            _fail(
                path,
                f"tensor {show(info.name)} ends at byte {end:,}, but the file has only "
                f"{file_size:,}; it is cut off.",
            )
        previous = f"tensor {show(info.name)}"
    if end < file_size:
        _fail(path, f"{file_size - end:,} bytes follow {previous}, which ends at {end:,}.")
