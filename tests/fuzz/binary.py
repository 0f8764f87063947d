"""Changes of bytes, of safetensors files and of pickles."""

from __future__ import annotations

import io
import zipfile
from random import Random
from typing import Final

from fuzz import trees

#: Lengths and offsets that readers add, multiply and allocate by.
NUMBERS: Final = (
    0, 1, 2, 7, 8, 9, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    100_000_000, 100_000_001, 2**53, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
#: Opcodes of pickles with arguments, archives, varints that do not end.
TOKENS: Final = (
    b"\x80\x02", b"\x80\x04\x95" + b"\xff" * 8, b"cos\nsystem\n", b"\x93", b"\x94", b"R", b".",
    b"(", b"t", b"q\x00", b"h\x00", b"X\xff\xff\xff\x7fa", b"\x8c\x05posix", b"\x8c\x06system",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"I9999999999\n", b"L" + b"9" * 5000 + b"L\n",
    b"\x8a\xff", b"\x8b\xff\xff\xff\x7f", b"G" + b"\xff" * 8, b"V\\ud800\n", b"p99999999999\n",
    b"g99999999999\n", b"PK\x03\x04", b"PK\x05\x06", b"\xff" * 10, b"\x0a\xff\xff\xff\xff\x7f",
    b"\x0a\x00", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x1f\x8b", b"\0" * 64, b"\n",
    b'"', b"\\u", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"NaN", b"9" * 400,
)  # fmt: skip


def mutate(rng: Random, data: bytes, other: bytes) -> bytes:
    """``data`` after a few changes; ``other`` gives pieces."""
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        data = rng.choice(_CHANGES)(rng, data, other)
    return data


def _flip(rng: Random, data: bytes, other: bytes) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _byte(rng: Random, data: bytes, other: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + rng.randrange(2) :]


def _length(rng: Random, data: bytes, other: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice((*NUMBERS, len(data), len(data) - 8)) % (1 << 8 * width)
    at = rng.choice((0, rng.randint(0, len(data))))
    field = number.to_bytes(width, rng.choice(("little", "big")))
    return data[:at] + field + data[at + width :]


def _token(rng: Random, data: bytes, other: bytes) -> bytes:
    at, token = rng.randint(0, len(data)), rng.choice(TOKENS)
    return data[:at] + token + data[at + rng.choice((0, len(token))) :]


def _cut(rng: Random, data: bytes, other: bytes) -> bytes:
    begin, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:end] if rng.random() < 0.5 else data[:begin] + data[end:]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    at, begin = rng.randint(0, len(data)), rng.randint(0, len(other))
    return data[:at] + other[begin : begin + rng.choice((1, 8, 64, 1000))] + data[at:]


def _again(rng: Random, data: bytes, other: bytes) -> bytes:
    begin = rng.randint(0, len(data))
    piece = data[begin : begin + rng.choice((1, 4, 16))]
    return data[:begin] + piece * rng.choice((2, 30, 3000)) + data[begin:]


_CHANGES: Final = (_flip, _byte, _length, _token, _token, _cut, _splice, _again)


def mutate_safetensors(rng: Random, data: bytes, other: bytes) -> bytes:
    """The tree of the header changed, and its length set or left wrong."""
    length = int.from_bytes(data[:8], "little")
    try:
        tree, more = trees.parse(data[8 : 8 + length]), trees.parse(_header_of(other))
    except ValueError:
        return mutate(rng, data, other)
    header = trees.dump(trees.mutate(rng, tree, more))
    values = data[8 + length :]
    if rng.random() < 0.1:
        values = mutate(rng, values, other)
    said = len(header) if rng.random() < 0.9 else length
    return said.to_bytes(8, "little") + header + values


def _header_of(data: bytes) -> bytes:
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def mutate_archive(rng: Random, data: bytes, other: bytes) -> bytes:
    """A pickle alone or in an archive as PyTorch writes it, the members changed."""
    members = _members(data)
    if members is None or rng.random() < 0.3:
        changed = mutate(rng, data, other)
        return _archive(rng, {"archive/data.pkl": changed}) if rng.random() < 0.2 else changed
    name = rng.choice(list(members) or ["data.pkl"])
    members[name] = mutate(rng, members.get(name, b""), other)
    return _archive(rng, members)


def _members(data: bytes) -> dict[str, bytes] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {each.filename: archive.read(each) for each in archive.infolist()[:8]}
    except Exception:  # whatever a damaged archive leads to
        return None


def _archive(rng: Random, members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)  # of a date that does not follow the clock
            archive.writestr(member, content, method)
    return made.getvalue()
