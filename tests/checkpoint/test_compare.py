"""Tensors are compared byte by byte, and no further than to the first difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergesafe.checkpoint.format.compare import same_bytes
from mergesafe.checkpoint.format.safetensors import TensorInfo, read_header

from .helpers import pack_tensors

#: Longer than the first piece and one further piece, and not a multiple of one.
SIZE = (4 << 20) + (64 << 10) + 12_345


def tensor(path: Path, data: bytes, dtype: str = "U8") -> TensorInfo:
    path.write_bytes(pack_tensors({"x": (dtype, [len(data)], data)}))
    return read_header(path)[0]["x"]


@pytest.mark.parametrize("at", [None, 0, 65_535, 65_536, (4 << 20) + (64 << 10), SIZE - 1])
def test_any_byte_counts(at: int | None, tmp_path: Path) -> None:
    data = bytearray(bytes(range(251)) * (SIZE // 251 + 1))[:SIZE]
    one = tensor(tmp_path / "a.safetensors", bytes(data))
    if at is not None:
        data[at] ^= 1
    other = tensor(tmp_path / "b.safetensors", bytes(data))
    assert same_bytes(one, other) is (at is None)


def test_types_count(tmp_path: Path) -> None:
    one = tensor(tmp_path / "a.safetensors", b"abc")
    assert not same_bytes(one, tensor(tmp_path / "b.safetensors", b"abc", "I8"))
    assert same_bytes(one, one)
    empty = tensor(tmp_path / "c.safetensors", b"")
    assert same_bytes(empty, tensor(tmp_path / "d.safetensors", b""))
