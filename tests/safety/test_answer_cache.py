"""The cache of answers as a file."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from mergesafe.chat.conversation import Response
from mergesafe.errors import DataError
from mergesafe.safety.evaluation.cache import FILE, Cache, key


def test_values_outlive_the_process(tmp_path: Path) -> None:
    names = [key("respond", n) for n in range(2000)]
    cache = Cache(tmp_path / "a" / "b")
    cache.put({name: {"text": "é\ud800", "n": n} for n, name in enumerate(names[:1500])})
    cache.close()
    found = Cache(tmp_path / "a" / "b").get(names)
    assert len(found) == 1500
    assert found[names[7]] == {"text": "é\ud800", "n": 7}


def test_keys_tell_kinds_and_order_apart() -> None:
    assert len({key("a", 1, 2), key("a", 2, 1), key("b", 1, 2), key("a", "1", 2)}) == 4
    assert key("a", {"x": 1, "y": 2}) == key("a", {"y": 2, "x": 1})


def test_several_processes_write_one_cache(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\nfrom mergesafe.safety.evaluation.cache import Cache\n"
        "cache = Cache(pathlib.Path(sys.argv[1]))\n"
        "for n in range(50): cache.put({f'{sys.argv[2]} {n}': n})\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    names = [f"{name} {n}" for name in "abc" for n in range(50)]
    assert len(Cache(tmp_path).get(names)) == 150


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("no database, but long enough to be looked at as one " * 20)
    with pytest.raises(DataError, match=r"answers\.sqlite: the cache of answers cannot be used"):
        Cache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be used"):
        Cache(tmp_path / "file")


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    """It holds answers to unsafe questions."""
    before = os.umask(0)
    try:
        with closing(Cache(tmp_path / "own")) as cache:
            cache.put({"k": 1})
            cache._connection.execute("BEGIN IMMEDIATE")
            cache._connection.execute("DELETE FROM answers")
            files = (tmp_path / "own").iterdir()
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    finally:
        os.umask(before)
    assert modes == {FILE: 0o600, f"{FILE}-journal": 0o600}
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


def test_one_that_others_could_read_is_theirs_no_longer(tmp_path: Path) -> None:
    Cache(tmp_path).close()
    (tmp_path / FILE).chmod(0o644)
    Cache(tmp_path).close()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_file_system_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks of other systems refuse to change one."""

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refused)
    with closing(Cache(tmp_path)) as cache:
        cache.put({"k": 1})
        assert cache.get(["k"]) == {"k": 1}


@pytest.mark.parametrize("name", [FILE, f"{FILE}-journal", f"{FILE}-wal", f"{FILE}-shm"])
@pytest.mark.parametrize("how", ["link", "hard link", "pipe", "folder"])
def test_what_others_put_in_its_place_is_refused(tmp_path: Path, name: str, how: str) -> None:
    folder, victim = tmp_path / "cache", tmp_path / "victim"
    folder.mkdir(mode=0o700)
    with closing(sqlite3.connect(victim)) as database:
        database.execute("CREATE TABLE precious (a)")
    content = victim.read_bytes()
    place = folder / name
    {
        "link": lambda: place.symlink_to(victim),
        "hard link": lambda: os.link(victim, place),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
    }[how]()
    with pytest.raises(DataError, match="cache of answers cannot be used"):
        Cache(folder)
    assert victim.read_bytes() == content


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(DataError, match="others may write to the folder"):
        Cache(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_another_users_cache_is_refused(tmp_path: Path) -> None:
    Cache(tmp_path).close()
    os.chown(tmp_path / FILE, 12345, 12345)
    with pytest.raises(DataError, match="belongs to user 12345"):
        Cache(tmp_path)


ADDED = {
    "trigger": "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END",
    "view": "CREATE VIEW v AS SELECT * FROM answers",
    "index": "CREATE INDEX i ON answers (value)",
    "table": "CREATE TABLE other (a)",
    "schema": "ALTER TABLE answers ADD COLUMN x DEFAULT 'x'",
}


@pytest.mark.parametrize("what", ADDED)
def test_a_database_with_more_in_it_is_refused(tmp_path: Path, what: str) -> None:
    Cache(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute(ADDED[what])
        database.commit()
    with pytest.raises(DataError, match="other things than answers"):
        Cache(tmp_path)


VALUES = {
    "another type": "[]",
    "a text": '"yes"',
    "a missing key": "{}",
    "another type inside": '{"text": 7}',
    "no truth value": '{"text": "a", "finished": "no"}',
    "blob": b'{"text": "a"}',
    "nothing": "",
    "too long": '{"text": "' + "a" * 1000 + '"}',
}


@pytest.mark.parametrize("what", VALUES)
def test_a_value_of_another_form_is_refused(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergesafe.safety.evaluation.cache._LONGEST", 500)
    with closing(Cache(tmp_path)) as cache, closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("INSERT INTO answers VALUES ('k', ?)", (VALUES[what],))
        database.commit()
        with pytest.raises(DataError, match="cache of answers cannot be used"):
            cache.get(["k"], Response)


def test_a_damaged_database_is_refused_or_right(tmp_path: Path) -> None:
    names = [key("respond", n) for n in range(200)]
    with closing(Cache(tmp_path)) as cache:
        cache.put({name: {"text": "a" * 50, "finished": True} for name in names})
    whole = (tmp_path / FILE).read_bytes()
    random = Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(random.randint(1, 20)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        (tmp_path / FILE).write_bytes(damaged[: random.choice([len(damaged), 5000])])
        try:
            with closing(Cache(tmp_path)) as cache:
                cache.get(names, Response)
                cache.put({"k": {"text": "b"}})
        except DataError:
            continue
