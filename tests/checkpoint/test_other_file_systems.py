"""Outputs on file systems that have other rules: NFS, and disks of other systems."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mergesafe import private
from mergesafe.checkpoint.output import staging
from mergesafe.checkpoint.output.folder import OutputFolder

from .helpers import fill, new, small_layout


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def merged(out: Path) -> None:
    with new(out) as folder:
        fill(folder)
        folder.commit()


def test_root_whom_a_server_takes_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such a user makes belongs to another number than the user has."""
    monkeypatch.setattr(private.os, "geteuid", lambda: os.getuid() + 1)
    merged(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_an_unfinished_merge_of_such_a_user_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private.os, "geteuid", lambda: os.getuid() + 1)

    def again(journal: private.Place) -> bool:
        return True

    for resumed in (False, True):
        with OutputFolder(
            tmp_path / "out", small_layout(), overwrite=False, protect=[], resume=again
        ) as folder:
            assert folder.resumed is resumed
            fill(folder)
            folder.keep = not resumed
            if resumed:
                folder.commit()
    assert os.listdir(tmp_path) == ["out"]


def test_an_open_file_that_nfs_keeps_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, close = private.remove_tree, private.close
    kept: dict[int, tuple[int, str]] = {}

    def silly(name: str, parent: int | None, descriptor: int | None = None) -> None:
        if name != "lock":
            return remove(name, parent, descriptor)
        assert parent is not None
        os.rename("lock", ".nfs00000001", src_dir_fd=parent, dst_dir_fd=parent)
        kept[os.stat(".nfs00000001", dir_fd=parent).st_ino] = parent, ".nfs00000001"
        return None

    def closed(descriptor: int) -> None:
        place = kept.pop(os.fstat(descriptor).st_ino, None)
        close(descriptor)
        if place is not None:
            os.unlink(place[1], dir_fd=place[0])

    monkeypatch.setattr(staging.private, "remove_tree", silly)
    monkeypatch.setattr(staging.private, "close", closed)
    merged(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_system_without_exchange_hints_and_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("mergesafe.checkpoint.output._install._exchange", lambda *_: False)
    for name in ("fcntl.flock", "os.posix_fallocate"):
        monkeypatch.setattr(name, refuse)
    merged(tmp_path / "out")
    with new(tmp_path / "out", overwrite=True) as folder:
        fill(folder)
        folder.commit()
    assert os.listdir(tmp_path) == ["out"]


def test_without_locks_an_unfinished_merge_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be running."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with new(tmp_path / "out") as folder:
        folder.keep = True
    with monkeypatch.context() as without:
        without.setattr("fcntl.flock", refuse)
        staging.remove_abandoned(tmp_path / "out")
        assert len(os.listdir(tmp_path)) == 1
    staging.remove_abandoned(tmp_path / "out")
    assert os.listdir(tmp_path) == []
