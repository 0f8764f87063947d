"""Files and folders in places that others may write to."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mergesafe import private, private_folder
from mergesafe.private_folder import make_private

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make another user's file"
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = private.open_folder(tmp_path)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.mkdir()
    (path / "precious").write_text("precious")
    return path


def test_links_are_not_followed(tmp_path: Path, folder: int, victim: Path) -> None:
    (tmp_path / "link").symlink_to(victim / "precious")
    (tmp_path / "linked").symlink_to(victim)
    with pytest.raises(FileExistsError):
        private.create_file("link", folder)
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        with pytest.raises(OSError, match=r"symbolic links"):
            private.open_own_file("link", flags, folder)
        with pytest.raises(OSError, match=r"symbolic links"):
            private.open_file("link", folder, flags)
    with pytest.raises(NotADirectoryError):
        private.open_folder("linked", folder)
    assert (victim / "precious").read_text() == "precious"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY])
def test_pipes_are_not_waited_for(tmp_path: Path, folder: int, flags: int) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"not a regular file|No such device"):
        private.open_own_file("pipe", flags, folder)
    with pytest.raises(OSError, match=r"not a regular file|Not a directory"):
        private.open_own_file("/dev/zero", os.O_RDONLY)


def test_a_hard_link_to_another_file_is_refused(tmp_path: Path, folder: int, victim: Path) -> None:
    os.link(victim / "precious", tmp_path / "name")
    with pytest.raises(private.NotPrivateError, match="another name"):
        private.open_own_file("name", os.O_RDWR | os.O_CREAT, folder)


def test_what_is_made_is_for_the_user_alone(tmp_path: Path, folder: int) -> None:
    os.close(private.open_own_file("file", os.O_RDWR | os.O_CREAT, folder))
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    make_private(tmp_path / "deep" / "own")
    assert stat.S_IMODE((tmp_path / "deep" / "own").stat().st_mode) == 0o700


@needs_root
def test_what_is_somebody_elses_is_refused(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "sub").mkdir()
    for name in ("file", "sub"):
        os.chown(tmp_path / name, 12345, 12345)
    with pytest.raises(private.NotPrivateError, match="belongs to user 12345"):
        private.open_own_file("file", os.O_RDWR, folder)
    with pytest.raises(private.NotPrivateError, match="belongs to user 12345"):
        make_private(tmp_path / "sub")


def test_a_server_may_number_users_otherwise(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of root on NFS, and on disks of other systems, what is made belongs to somebody else."""
    monkeypatch.setattr(private.os, "geteuid", lambda: os.getuid() + 1)
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        os.close(private.open_own_file("file", flags, folder))
        os.close(private.open_own_file(tmp_path / "other", flags))
    make_private(tmp_path / "own")


def test_a_file_system_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks of other systems show one mode for all that is on them."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own").chmod(0o777)
    for module in (private, private_folder):
        monkeypatch.setattr(module, "others_may_write", lambda status: True)
    make_private(tmp_path / "own")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_folder_that_others_may_write_to_is_not_private(tmp_path: Path, mode: int) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub").chmod(mode)
    with pytest.raises(private.NotPrivateError, match="others may write"):
        make_private(tmp_path / "sub")


def test_removing_follows_no_link(tmp_path: Path, folder: int, victim: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").write_text("")
    (tree / "a" / "link").symlink_to(victim)
    (tree / "link").symlink_to(victim / "precious")
    os.mkfifo(tree / "pipe")
    private.remove_tree("tree", folder)
    (tmp_path / "link").symlink_to(victim)
    private.remove_tree("link", folder)
    assert os.listdir(tmp_path) == ["victim"]
    assert (victim / "precious").read_text() == "precious"


def test_removing_ends_at_another_folder(tmp_path: Path, folder: int, victim: Path) -> None:
    (tmp_path / "ours").mkdir()
    ours = private.open_folder(tmp_path / "ours")
    (tmp_path / "ours").rename(tmp_path / "moved")
    victim.rename(tmp_path / "ours")
    with pytest.raises(private.NotPrivateError, match="taken its place"):
        private.remove_tree("ours", folder, ours)
    os.close(ours)
    assert (tmp_path / "ours" / "precious").read_text() == "precious"


def test_removing_while_links_take_the_place_of_folders(
    tmp_path: Path, folder: int, victim: Path
) -> None:
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            for name in ("a", "a/b"):
                try:
                    (tmp_path / "tree" / name).rename(tmp_path / "tree" / "away")
                    (tmp_path / "tree" / name).symlink_to(victim)
                except OSError:
                    continue

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        for _ in range(100):
            with suppress(OSError):
                (tmp_path / "tree" / "a" / "b").mkdir(parents=True, exist_ok=True)
                (tmp_path / "tree" / "a" / "b" / "file").touch()
                private.remove_tree("tree", folder)
    finally:
        stop.set()
        thread.join()
    assert (victim / "precious").read_text() == "precious"


def test_random_names_fit(tmp_path: Path, folder: int) -> None:
    for stem in ("x", "x" * 255, "ä" * 127):
        name = private.random_name(stem, "mark")
        os.close(private.create_file(name, folder))
    assert len(os.listdir(tmp_path)) == 3
