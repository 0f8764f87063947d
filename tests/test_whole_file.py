"""Small results appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mergesafe.errors import OutputError
from mergesafe.file_lock import take_lock
from mergesafe.whole_file import write_whole


def test_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    write_whole(path, "after: ä \ud800")
    assert path.read_bytes() == "after: ä ".encode() + rb"\ud800"
    write_whole(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device.*Free some"):
        write_whole(path, "after", "Free some")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / "missing" / "a.json", "x")


def test_siblings_of_killed_processes_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        patch.setattr(os, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, "killed")
    (abandoned,) = os.listdir(tmp_path)
    for other in (f".a.json.{os.getpid()}", abandoned.replace("a.json", "b.json"), "x"):
        (tmp_path / other).write_text("not ours")
    before = set(os.listdir(tmp_path))
    with (tmp_path / abandoned).open() as busy:
        take_lock(busy.fileno())  # as by a process that is still at it
        write_whole(path, "new")
        assert set(os.listdir(tmp_path)) == {*before, "a.json"}
    write_whole(path, "newer")
    assert set(os.listdir(tmp_path)) == (before - {abandoned}) | {"a.json"}
    assert path.read_text() == "newer"


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120)
    write_whole(path, "x")
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that results are handed in to."""
    tmp_path.chmod(0o333)
    monkeypatch.chdir(tmp_path)
    os.seteuid(12345)
    try:
        write_whole(Path("file"), "one")
        write_whole(Path("file"), "two")
    finally:
        os.seteuid(0)
    assert (tmp_path / "file").read_text() == "two"
    assert os.listdir(tmp_path) == ["file"]


def test_without_locks_another_process_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    theirs = tmp_path / f".file.mergesafe-new-{'0' * 16}"
    theirs.write_text("half")
    with monkeypatch.context() as without:
        without.setattr("fcntl.flock", refused)
        write_whole(tmp_path / "file", "ours")
        assert theirs.exists()
    write_whole(tmp_path / "file", "ours")
    assert os.listdir(tmp_path) == ["file"]
