"""The journal of a command: what a crash leaves is used, and what no crash leaves is refused."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mergesafe import journal as module
from mergesafe.errors import OutputError
from mergesafe.journal import Contents, Journal, Kind, decode_line, encode_line, is_left
from mergesafe.private import Place, open_folder

#: Every line is synced; only where it says so.
EACH = Kind("tune", "tuning run", "-o", "Start anew.")
MARKS = Kind("merge", "merge", "folder", "Start anew.", sync_lines=False)
RECORDS: list[Any] = [{"a": 1}, {"b": [2, "ä"]}, {"c": None}]
SUBJECT = {"recipe": "r"}


def write(path: Path, records: list[Any] = RECORDS, kind: Kind = EACH) -> list[bytes]:
    """A journal with ``records``; its lines."""
    with Journal(path, kind) as journal:
        journal.begin(SUBJECT)
        for record in records:
            journal.append(record)
    return path.read_bytes().splitlines(keepends=True)


def read(path: Path, kind: Kind = EACH) -> Contents | None:
    with Journal(path, kind) as journal:
        return journal.read()


@pytest.mark.parametrize("kind", [EACH, MARKS])
def test_what_was_written_is_read(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = write(path, kind=kind)
    assert len(lines) == 4
    assert read(path, kind) == Contents(SUBJECT, RECORDS)
    with Journal(path, kind) as journal:
        journal.begin(SUBJECT, RECORDS[:1])
        journal.append({"d": 4})
        journal.sync()
    assert read(path, kind) == Contents(SUBJECT, [RECORDS[0], {"d": 4}])
    assert path.read_bytes().startswith(b"".join(lines[:2]))


def test_any_plain_data_comes_back() -> None:
    for value in ({"x": [0.1, 1e-320, -0.0, math.inf, 10**30, "\ud800\0\t\n", True]}, [], ["k"]):
        line = encode_line(value)
        assert line.count(b"\n") == 1
        assert line.isascii()
        assert decode_line(line) == value
    assert math.isnan(decode_line(encode_line([math.nan]))[0])
    assert decode_line(encode_line(1)[:-1]) is None


@pytest.mark.parametrize("kind", [EACH, MARKS])
def test_a_torn_end_is_cut_off(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "j"
    lines = write(path, kind=kind)
    good = b"".join(lines[:-1])
    for end in (*(lines[-1][:n] for n in range(len(lines[-1]))), b"\0" * 50, b"\xff\n\0\n"):
        path.write_bytes(good + end)
        with Journal(path, kind) as journal:
            found = journal.read()
            assert found == Contents(SUBJECT, RECORDS[:-1])
            journal.begin(SUBJECT, found.records)
            assert path.read_bytes() == good
            journal.append({"d": 4})
        assert read(path, kind) == Contents(SUBJECT, [*RECORDS[:-1], {"d": 4}])


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("how", [b"x", b"\0", b"\n", b""])
def test_damage_before_the_end_is_refused_with_its_line(
    number: int, how: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "j"
    lines = write(path)
    lines[number - 1] = how + lines[number - 1][1:]
    path.write_bytes(b"".join(lines))
    said = rf"the unfinished tuning run cannot be resumed: line {number} of its .*Start anew\."
    with pytest.raises(OutputError, match=said):
        read(path)
    assert path.read_bytes() == b"".join(lines)  # nothing is lost


def test_marks_tell_which_lines_were_synced(tmp_path: Path) -> None:
    """Those behind the last mark may be lost in any order; those before it were on the disk."""
    path = tmp_path / "j"
    with Journal(path, MARKS) as journal:
        journal.begin(SUBJECT, RECORDS[:1])
        journal.append(RECORDS[1])
        journal.sync()
        journal.append(RECORDS[2])
        journal.append({"d": 4})
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6

    def damaged(number: int) -> bytes:
        return b"".join((*lines[: number - 1], b"?" + lines[number - 1][1:], *lines[number:]))

    for number, left in ((4, RECORDS[:2]), (5, RECORDS[:2]), (6, RECORDS)):
        path.write_bytes(damaged(number))
        assert read(path, MARKS) == Contents(SUBJECT, left)
    for number in (1, 2, 3):
        path.write_bytes(damaged(number))
        with pytest.raises(OutputError, match=f"line {number} of its journal is damaged"):
            read(path, MARKS)


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path)
    with pytest.raises(OutputError, match="line 1 of its journal is not that of a mergesafe merge"):
        read(path, MARKS)
    header = {"mergesafe_journal": "tune", "format": 3, "subject": {}}
    for content, said in (
        ([header], "not that of a mergesafe tune of format 2"),
        ([{**header, "format": 2, "subject": []}], "does not say what it is of"),
        ([{"recipe": "r"}], "damaged, or of an earlier version"), ([[]], "earlier version"),
    ):  # fmt: skip
        path.write_bytes(b"".join(map(encode_line, content)))
        with pytest.raises(OutputError, match=said):
            read(path)


def test_lines_of_the_first_version(tmp_path: Path) -> None:
    """Where they are records, they are read, and have a header from then on."""
    path, kind = tmp_path / "j", replace(EACH, headerless=lambda first: "a" in first)
    path.write_bytes(b"".join(map(encode_line, RECORDS)))
    with pytest.raises(OutputError, match="earlier version"):
        read(path)
    with Journal(path, kind) as journal:
        found = journal.read()
        assert found == Contents(None, RECORDS)
        journal.begin(SUBJECT, found.records)
    assert read(path) == read(path, kind) == Contents(SUBJECT, RECORDS)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j"
    said = "another mergesafe tune is at work on this output; wait for it, or choose another -o"
    with Journal(path, EACH) as held:
        for _ in range(2):  # before it is begun and after
            with pytest.raises(OutputError, match=said):
                Journal(path, EACH)
            held.begin(SUBJECT, RECORDS)
            with pytest.raises(OutputError, match=said):
                is_left(path, EACH)
    assert is_left(path, EACH)
    assert read(path) == Contents(SUBJECT, RECORDS)


def test_it_stays_where_something_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, EACH) as journal:
        assert journal.read() is None
    assert not path.exists()
    assert not is_left(path, EACH)
    with Journal(path, EACH) as journal:
        journal.begin(SUBJECT)
        assert path.exists()
    assert not path.exists()
    write(path)
    assert read(path) is not None
    with Journal(path, EACH):  # which fails before it begins, say
        pass
    assert path.exists()
    with Journal(path, EACH) as journal:
        journal.remove()
        path.write_text("of another run")
    assert path.read_text() == "of another run"


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", EACH) as journal:
        assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
        journal.begin(SUBJECT, RECORDS)
        assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["j", "j.new"])
@pytest.mark.parametrize("how", ["link", "hard link", "pipe", "folder"])
def test_what_others_put_in_its_place_is_not_followed(how: str, name: str, tmp_path: Path) -> None:
    victim, place = tmp_path / "victim", tmp_path / name
    victim.write_text("precious\n")
    plant: dict[str, Callable[[], object]] = {
        "link": lambda: place.symlink_to(victim),
        "hard link": lambda: os.link(victim, place),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
    }
    plant[how]()
    is_left(tmp_path / "j", EACH)  # does not wait
    if name == "j" or how == "folder":
        with pytest.raises(OutputError, match="the journal cannot be written"):
            Journal(tmp_path / "j", EACH)
    else:
        write(tmp_path / "j")
        assert read(tmp_path / "j") == Contents(SUBJECT, RECORDS)
    assert victim.read_text() == "precious\n"


def test_in_an_open_folder(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    try:
        place = Place(folder, "j", tmp_path / "j")
        with Journal(place, MARKS) as journal:
            journal.begin(SUBJECT, RECORDS)
        assert os.listdir(tmp_path) == ["j"]
        assert read(tmp_path / "j", MARKS) == Contents(SUBJECT, RECORDS)
    finally:
        os.close(folder)


@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
def test_a_begin_that_fails_loses_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    write(path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(path, EACH) as journal, monkeypatch.context() as patched:
        patched.setattr(module.os, call, fail)
        with pytest.raises(OutputError, match=r"cannot be written \(No space left.*Free space"):
            journal.begin({"recipe": "another"})
    assert os.listdir(tmp_path) == ["j"]
    assert read(path) == Contents(SUBJECT, RECORDS)


def test_a_line_that_was_cut_off_by_a_full_disk_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    original = os.pwrite
    room = [20]

    def short(descriptor: int, data: bytes, begin: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = original(descriptor, data[: room[0]], begin)
        room[0] = 0
        return count

    with Journal(path, EACH) as journal:
        journal.begin(SUBJECT, RECORDS[:1])
        with monkeypatch.context() as patched:
            patched.setattr(module.os, "pwrite", short)
            with pytest.raises(OutputError, match="No space left"):
                journal.append(RECORDS[1])
        for record in RECORDS[2:]:
            journal.append(record)
    assert read(path) == Contents(SUBJECT, [RECORDS[0], *RECORDS[2:]])


def test_one_that_is_too_large_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "j")
    with pytest.raises(OutputError, match="larger than 100 bytes, which none is"):
        read(tmp_path / "j", replace(EACH, limit=100))


def test_a_name_that_is_too_long_makes_nothing(tmp_path: Path) -> None:
    for length in (252, 256):
        with pytest.raises(OutputError, match="File name too long"):
            Journal(tmp_path / ("a" * length), EACH)
    assert os.listdir(tmp_path) == []
