"""Outputs in folders that others write to, too: nothing of anyone is lost, nobody's file is taken.

The other one is a process that, as another user or as the same, exchanges the names that an output
is made under for links to a victim's files and for files of its own, again and again.
"""

# ruff: noqa: PT012 - the folder's own with-block, where things go wrong, is inside pytest.raises

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

import pytest

from mergesafe.checkpoint.output.folder import OutputFolder
from mergesafe.errors import OutputError

from .helpers import ONE, TWO, A, B, fill, listing, new, small_layout, write

OTHER = 12345
AREA = f".out.mergesafe-{blake2b(b'out', digest_size=4).hexdigest()}"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder that looks like one of ours inside, and must stay as it is."""
    path = tmp_path / "victim"
    (path / "model").mkdir(parents=True)
    for name in ("precious", "journal", "lock", f"model/{ONE}", f"model/{TWO}"):
        (path / name).write_text("precious")
    yield path
    assert listing(path) == ["journal", "lock", "model", f"model/{ONE}", f"model/{TWO}", "precious"]
    for file in path.rglob("*"):
        assert file.is_dir() or file.read_text() == "precious"


def right(out: Path) -> bool:
    assert not out.is_symlink()
    assert [(out / n).read_bytes()[-8:] for n in (ONE, TWO)] == [A, B]
    return True


def test_a_link_of_that_name_is_left_alone(shared: Path, victim: Path) -> None:
    (shared / AREA).symlink_to(victim)
    write(shared / "out")
    assert right(shared / "out")
    assert sorted(os.listdir(shared)) == [AREA, "out"]
    assert (shared / AREA).is_symlink()


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_a_folder_of_somebody_else_is_left_alone(shared: Path, mode: int) -> None:
    theirs = shared / AREA
    (theirs / "model").mkdir(parents=True)
    (theirs / "model" / ONE).write_text("evil")
    for path in (theirs, theirs / "model", theirs / "model" / ONE):
        os.chown(path, OTHER, OTHER)
    theirs.chmod(mode)
    write(shared / "out")
    assert right(shared / "out")
    assert (theirs / "model" / ONE).read_text() == "evil"


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_one_of_ours_that_others_may_have_filled_is_left_alone(shared: Path, mode: int) -> None:
    (shared / AREA / "model").mkdir(parents=True)
    (shared / AREA / "model" / "evil").write_text("evil")
    (shared / AREA).chmod(mode)
    write(shared / "out")
    assert listing(shared / "out") == [ONE, TWO, "model.safetensors.index.json"]
    assert (shared / AREA / "model" / "evil").exists()


def test_a_folder_of_ours_that_was_moved_there_is_left_alone(shared: Path, victim: Path) -> None:
    """Whoever may rename in a folder can give our own files the hidden name."""
    victim.rename(shared / AREA)
    write(shared / "out")
    assert right(shared / "out")
    (shared / AREA).rename(victim)


@pytest.mark.parametrize("name", ["model", "journal", "lock"])
def test_links_inside_are_left_alone(shared: Path, victim: Path, name: str) -> None:
    (shared / AREA).mkdir()
    (shared / AREA / name).symlink_to(victim / name)
    write(shared / "out")
    assert right(shared / "out")


def test_work_beside_a_foreign_folder_is_found_again(shared: Path, victim: Path) -> None:
    """Under a name that nobody could foresee."""
    (shared / AREA).symlink_to(victim)
    layout = small_layout(8)
    with OutputFolder(shared / "out", layout, overwrite=False, protect=[]) as folder:
        fill(folder)
        folder.keep = True
        found = folder.working.parent
        with pytest.raises(OutputError, match="another merge into this folder is running"):
            write(shared / "out")
    assert found.name.startswith(f"{AREA}-")
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    (found / "journal").touch()
    with OutputFolder(
        shared / "out", layout, overwrite=False, protect=[], resume=lambda place: True
    ) as folder:
        assert folder.working.parent == found
        assert folder.resumed
        folder.commit()
    assert right(shared / "out")
    assert sorted(os.listdir(shared)) == [AREA, "out"]


def test_another_folder_in_the_place_of_the_replaced_one(shared: Path, victim: Path) -> None:
    """With --overwrite, only what was there when the merge began is removed."""
    write(shared / "out")
    with (
        pytest.raises(OutputError, match="taken its place"),
        new(shared / "out", overwrite=True) as folder,
    ):
        fill(folder)
        (shared / "out").rename(shared / "away")
        victim.rename(shared / "out")
        folder.commit()
    (shared / "out").rename(victim)
    assert os.listdir(shared) == ["away"]


def test_another_folder_in_the_place_of_the_finished_one(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(source: str, target: str, **folders: int) -> None:
        real(source, target, **folders)
        if source == "model":
            real(shared / "out", shared / "away")
            (shared / "out").mkdir()

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match="another folder has taken its place"):
        write(shared / "out")


def test_a_shard_that_is_replaced_is_an_error(shared: Path, victim: Path) -> None:
    with (
        pytest.raises(OutputError, match=f"{ONE}: something else took the place"),
        new(shared / "out") as folder,
    ):
        fill(folder)
        (folder.working / ONE).unlink()
        (folder.working / ONE).symlink_to(victim / "precious")
        folder.commit()
    assert os.listdir(shared) == []


def test_a_companion_that_is_replaced_is_an_error(shared: Path, victim: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"took the place of its a/b\.json"),
        new(shared / "out") as folder,
    ):
        fill(folder)
        folder.add_file("a/b.json", "{}")
        (folder.working / "a" / "b.json").unlink()
        (folder.working / "a" / "b.json").symlink_to(victim / "precious")
        folder.commit()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_late_failure_to_sync_leaves_what_was_there(
    shared: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """The last of all: the folder above."""
    real = os.fsync
    if overwrite:
        (shared / "out").mkdir()
        (shared / "out" / "old").touch()

    def fsync(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), shared.stat()):
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="Input/output error"):
        write(shared / "out", overwrite=overwrite)
    assert listing(shared) == (["out", "out/old"] if overwrite else [])


def exchange(victim: Path, *, inside: bool) -> None:
    """One thing that the other one does, in the shared folder."""
    names = [AREA, *(n for n in os.listdir(".") if n.startswith(f"{AREA}-"))]
    wanted = list(names)
    if inside:
        for name in names:
            below = ("", "/model", "/journal", "/journal.new", "/lock", f"/model/{ONE}")
            wanted += [name + each for each in below]
    number = time.monotonic_ns()
    for name in wanted:
        if any(map(os.path.islink, map(str, Path(name).parents))):
            continue  # it is not the other one who must leave the victim alone
        with suppress(OSError):
            os.unlink(name)
        with suppress(OSError):
            os.rename(name, f"away-{number % 20}")
        with suppress(OSError):
            kind = number % 3
            if kind == 0:
                os.symlink(victim, name)
            elif kind == 1:
                os.symlink(victim / "precious", name)
            else:
                os.mkdir(name, 0o777)
                os.mkdir(f"{name}/model", 0o777)
                os.symlink(victim / "precious", f"{name}/journal")
                Path(f"{name}/model/{ONE}").write_text("evil")
        number += 1


@contextmanager
def attacked(shared: Path, act: Callable[[], None], user: int | None) -> Iterator[None]:
    """Another process does ``act`` all the time, as ``user``."""
    child = os.fork()
    if not child:
        try:
            os.chdir(shared)
            if user is not None:
                os.setgid(user)
                os.setuid(user)
            os.umask(0)
            end = time.monotonic() + 120
            while time.monotonic() < end and os.getppid() != 1:
                act()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


ATTACKS = [
    pytest.param(0o1777, OTHER, marks=needs_root, id="another user, sticky"),
    pytest.param(0o777, OTHER, marks=needs_root, id="another user"),
    pytest.param(0o777, None, id="the same user"),
]


def race(shared: Path, victim: Path, mode: int, user: int | None, rounds: int) -> int:
    """How many of the outputs were made; all those are right."""
    shared.chmod(mode)
    made = 0
    with attacked(shared, lambda: exchange(victim, inside=user is None), user):
        for _ in range(rounds):
            with suppress(OutputError):
                write(shared / "out")
                made += right(shared / "out")
            with suppress(FileNotFoundError):
                shutil.rmtree(shared / "out")
    return made


@pytest.mark.filterwarnings("ignore:.*could not be removed", "ignore:.*fork")
@pytest.mark.parametrize(("mode", "user"), ATTACKS)
def test_races(shared: Path, victim: Path, mode: int, user: int | None) -> None:
    made = race(shared, victim, mode, user, 20)
    assert made == 20 or mode == 0o777


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*could not be removed", "ignore:.*fork")
@pytest.mark.parametrize(("mode", "user"), ATTACKS)
def test_long_races(shared: Path, victim: Path, mode: int, user: int | None) -> None:
    made = race(shared, victim, mode, user, 200)
    assert made == 200 or mode == 0o777
