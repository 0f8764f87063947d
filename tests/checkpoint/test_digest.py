"""Digests of tensor bytes: against the xxhash package, in pieces, on every instruction set."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash

from mergesafe import _native
from mergesafe.checkpoint.format.digest import (
    BLOCK,
    add,
    digest_at,
    digest_of,
    digest_of_file,
    parse,
    text,
)
from mergesafe.errors import ChangedInputError

SIZES = (0, 1, 3, 16, 17, 128, 129, 240, 241, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5)


@pytest.fixture(params=_native.available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _native.isa()
    _native.use_isa(request.param)
    yield
    _native.use_isa(before)


def data(size: int) -> bytearray:
    return bytearray(random.Random(size).randbytes(size))


def expected(content: bytes | bytearray, first: int = 0) -> int:
    blocks = [bytes(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK)]
    sums = (xxhash.xxh3_128_intdigest(block, seed=first + i) for i, block in enumerate(blocks))
    return sum(sums) % 2**128


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", [0, 7, 2**40])
def test_equals_the_definition(size: int, first: int) -> None:
    assert digest_of(data(size), first) == expected(data(size), first)


@pytest.mark.parametrize("shift", [1, 3, 8])
def test_unaligned_addresses(shift: int) -> None:
    content = data(3 * BLOCK + 5)
    address = ctypes.addressof(ctypes.c_char.from_buffer(content)) + shift
    size = len(content) - shift
    assert digest_at(address, size) == expected(content[shift:])


def test_read_only_bytes() -> None:
    content = bytes(data(BLOCK + 9))
    assert digest_of(content) == digest_of(memoryview(content)) == expected(content)


def test_pieces_add_up_in_any_order() -> None:
    content = data(9 * BLOCK + 77)
    pieces = [(at, content[at : at + 2 * BLOCK]) for at in range(0, len(content), 2 * BLOCK)]
    random.Random(0).shuffle(pieces)
    total = 0
    for at, piece in pieces:
        total = add(total, digest_of(piece, at // BLOCK))
    assert total == digest_of(content)


def test_damage_shows() -> None:
    content = data(4 * BLOCK)
    flipped = bytearray(content)
    flipped[2 * BLOCK + 1] ^= 1
    swapped = content[BLOCK : 2 * BLOCK] + content[:BLOCK] + content[2 * BLOCK :]
    cut = content[:-1]
    assert len({digest_of(each) for each in (content, flipped, swapped, cut)}) == 4


def test_text_and_back() -> None:
    digest = digest_of(data(100))
    assert parse(text(digest)) == digest
    assert text(1) == "0" * 31 + "1"


@pytest.mark.parametrize("digits", ["", "0" * 31, "0" * 33, "g" * 32, "0x" + "0" * 30, "-" * 32])
def test_other_text_is_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        parse(digits)


@pytest.mark.parametrize("size", [0, 1, BLOCK, 512 * BLOCK + 5])
def test_a_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(content := random.Random(size).randbytes(size))
    assert digest_of_file(tmp_path / "file") == digest_of(content)


def test_a_file_that_shrinks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping of it would end the process with a signal."""
    path, real = tmp_path / "file", os.preadv
    path.write_bytes(bytes(3 * 512 * BLOCK))

    def shrinking(descriptor: int, views: list[memoryview], begin: int) -> int:
        os.truncate(path, 512 * BLOCK)
        return real(descriptor, views, begin)

    monkeypatch.setattr(os, "preadv", shrinking)
    with pytest.raises(ChangedInputError, match="shrunk"):
        digest_of_file(path)


def test_a_file_that_is_written_to_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "file", os.preadv
    path.write_bytes(bytes(100))

    def writing(descriptor: int, views: list[memoryview], begin: int) -> int:
        path.write_bytes(bytes(101))
        return real(descriptor, views, begin)

    monkeypatch.setattr(os, "preadv", writing)
    with pytest.raises(ChangedInputError, match="written to"):
        digest_of_file(path)
