"""Early writes to the disk are a hint: asked for every so many bytes, and optional."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mergesafe.checkpoint.output import _writeback
from mergesafe.checkpoint.output._writeback import STEP, Writeback
from mergesafe.checkpoint.output.layout import ShardFile
from mergesafe.checkpoint.output.shards import Shards

linux = pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")


class Watched:
    """Stands in for the system call: every call's arguments, and what ``call`` answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: Any = None) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.answers: list[Any] = []
        self.call = call
        monkeypatch.setattr(_writeback, "_sync_file_range", self)

    def __call__(self, *arguments: int) -> Any:
        self.calls.append(arguments)
        self.answers.append(self.call and self.call(*arguments))
        return self.answers[-1]


def test_asked_for_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, writeback = Watched(monkeypatch), Writeback()
    asked = []
    for _ in range(5):
        writeback.wrote(7, STEP // 2)
        asked.append(len(watched.calls))
    assert asked == [0, 1, 1, 2, 2]
    # From byte 0 to the end (0), SYNC_FILE_RANGE_WRITE.
    assert watched.calls == [(7, 0, 0, 2)] * 2


def test_every_shard_counts_for_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_writeback, "STEP", 8)
    watched = Watched(monkeypatch)
    names: list[str] = []
    watched.call = lambda descriptor, *_: names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    with Shards([ShardFile(name, b"head", 20) for name in "ab"], tmp_path) as shards:
        folder = os.open(tmp_path, os.O_RDONLY)
        shards.create(folder)
        os.close(folder)
        for shard, offset in ((0, 4), (1, 4), (0, 10)):
            shards.pwrite(shard, offset, memoryview(b"123456"))
    assert names == [str(tmp_path / "a")]


@linux
def test_the_call_of_the_system_takes_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watched = Watched(monkeypatch, _writeback._system_call())
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x")
        file.flush()
        Writeback().wrote(file.fileno(), STEP)
    assert watched.answers == [0]


@linux
def test_a_refused_hint_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, _writeback._system_call())
    Writeback().wrote(-1, STEP)
    assert watched.answers == [-1]  # refused by the system, and nothing was raised


@pytest.mark.parametrize("error", [AttributeError, OSError(errno.ENOENT, "no C library")])
def test_systems_without_the_call(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    def without(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", without)
    found = _writeback._system_call()
    assert found is None
    monkeypatch.setattr(_writeback, "_sync_file_range", found)
    writeback = Writeback()
    writeback.wrote(7, 2 * STEP)
    assert writeback._pending == 0  # as if it had been asked for
