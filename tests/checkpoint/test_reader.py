"""Positioned reads: every byte is counted, every failure names file, tensor and bytes."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.format.safetensors import TensorInfo, read_header
from mergesafe.errors import ArgumentError, CheckpointError

from .helpers import pack_tensors

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def info(tmp_path: Path) -> TensorInfo:
    path = tmp_path / "m.safetensors"
    path.write_bytes(
        pack_tensors({"first": ("U8", [3], b"abc"), "w": ("U8", [len(CONTENT)], CONTENT)})
    )
    return read_header(path)[0]["w"]


@pytest.mark.parametrize("begin", [0, 1, 4095, len(CONTENT) - 1, len(CONTENT)])
def test_reads_the_range(info: TensorInfo, begin: int) -> None:
    buffer = bytearray(min(100, info.nbytes - begin))
    with Reader() as reader:
        reader.read_into(info, begin, memoryview(buffer))
    assert buffer == CONTENT[begin : begin + len(buffer)]


def test_reads_into_a_view_of_any_item_size(info: TensorInfo) -> None:
    buffer = bytearray(16)
    with Reader() as reader:
        reader.read_into(info, 8, memoryview(buffer).cast("d"))
    assert buffer == CONTENT[8:24]


def test_short_reads_are_continued(info: TensorInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.preadv, []

    def stingy(descriptor: int, views: list[memoryview], offset: int) -> int:
        calls.append(offset)
        return real(descriptor, [views[0][:1000]], offset)

    monkeypatch.setattr(os, "preadv", stingy)
    buffer = bytearray(info.nbytes)
    with Reader() as reader:
        reader.read_into(info, 0, memoryview(buffer))
    assert buffer == CONTENT
    assert len(calls) == 11


def test_shrunk_file(info: TensorInfo) -> None:
    with Reader() as reader:
        reader.read_into(info, 0, memoryview(bytearray(1)))
        os.truncate(info.path, info.offset + 10)
        with pytest.raises(CheckpointError) as caught:
            reader.read_into(info, 4, memoryview(bytearray(20)))
    assert str(caught.value).startswith(
        f"{info.path}: tensor 'w': expected 20 bytes, got 6 (the file ends there; it has shrunk)"
    )


def test_disk_error(info: TensorInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    with Reader() as reader, pytest.raises(CheckpointError) as caught:
        reader.read_into(info, 0, memoryview(bytearray(20)))
    assert "tensor 'w': expected 20 bytes, got 0 (Input/output error)" in str(caught.value)


def test_vanished_file(info: TensorInfo) -> None:
    info.path.unlink()
    with Reader() as reader, pytest.raises(CheckpointError, match="cannot open the shard to read"):
        reader.read_into(info, 0, memoryview(bytearray(20)))


def test_too_many_open_files(info: TensorInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", full)
    with Reader() as reader, pytest.raises(CheckpointError, match="ulimit -n"):
        reader.read_into(info, 0, memoryview(bytearray(20)))


@pytest.mark.parametrize(("begin", "size"), [(-1, 1), (0, len(CONTENT) + 1), (len(CONTENT), 1)])
def test_range_outside_the_tensor(info: TensorInfo, begin: int, size: int) -> None:
    with Reader() as reader, pytest.raises(ArgumentError, match=f"it has {len(CONTENT)}"):
        reader.read_into(info, begin, memoryview(bytearray(size)))


def test_read_only_buffer(info: TensorInfo) -> None:
    with Reader() as reader, pytest.raises(ArgumentError, match="read-only"):
        reader.read_into(info, 0, memoryview(b"abc"))


def test_closed_reader(info: TensorInfo) -> None:
    reader = Reader()
    reader.read_into(info, 0, memoryview(bytearray(1)))
    reader.close()
    reader.close()
    with pytest.raises(ArgumentError, match="the reader is closed"):
        reader.read_into(info, 0, memoryview(bytearray(1)))


def test_close_waits_for_reads_in_progress(
    info: TensorInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, inside, go = os.preadv, threading.Event(), threading.Event()

    def slow(descriptor: int, views: list[memoryview], offset: int) -> int:
        inside.set()
        go.wait(10)
        return real(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", slow)
    reader, buffer = Reader(), bytearray(50)
    with ThreadPoolExecutor(2) as pool:
        read = pool.submit(reader.read_into, info, 0, memoryview(buffer))
        inside.wait(10)
        close = pool.submit(reader.close)
        assert not close.done()
        go.set()
        read.result(10)
        close.result(10)
    assert buffer == CONTENT[:50]


def test_many_threads_open_the_shard_once(
    info: TensorInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = os.open, []

    def counting(path: Path, flags: int) -> int:
        opened.append(path)
        time.sleep(0.05)  # let every thread find the shard unopened
        return real(path, flags)

    monkeypatch.setattr(os, "open", counting)
    buffers = [bytearray(64) for _ in range(info.nbytes // 64)]
    with Reader() as reader, ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(reader.read_into, info, 64 * number, memoryview(buffer))
            for number, buffer in enumerate(buffers)
        ]
        for job in jobs:
            job.result()
    assert b"".join(buffers) == CONTENT
    assert opened == [info.path]


def test_advise_never_fails(info: TensorInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    advise = os.posix_fadvise

    def watched(descriptor: int, begin: int, count: int, advice: int) -> None:
        asked.append((begin, count))
        advise(descriptor, begin, count, advice)

    def unsupported(*_: object) -> None:
        asked.append((0, 0))
        raise OSError(errno.EOPNOTSUPP, "no")

    with Reader() as reader:
        monkeypatch.setattr(os, "posix_fadvise", watched)
        reader.advise(info, 0, info.nbytes)
        assert asked == []  # so little is read ahead anyway
        monkeypatch.setattr("mergesafe.checkpoint.format.reader._ADVISED_BYTES", 1)
        reader.advise(info, 5, info.nbytes - 5)
        assert asked == [(info.offset + 5, info.nbytes - 5)]
        monkeypatch.setattr(os, "posix_fadvise", unsupported)
        reader.advise(info, 0, info.nbytes)
        assert asked[1:] == [(0, 0)]
        monkeypatch.delattr(os, "posix_fadvise")
        reader.advise(info, 0, info.nbytes)
        buffer = bytearray(info.nbytes)
        reader.read_into(info, 0, memoryview(buffer))
    assert buffer == CONTENT


def test_empty_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(pack_tensors({"none": ("F32", [0, 4], b"")}))
    info = read_header(path)[0]["none"]
    advised: list[object] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: advised.append(arguments))
    with Reader() as reader:
        reader.advise(info, 0, info.nbytes)
        reader.read_into(info, 0, memoryview(bytearray()))
    assert advised == []  # a length of 0 would mean "up to the end of the file"
