"""The journal: whole lines are used, torn ones forgotten, other questions asked."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from mergesafe.data.journal import NAME, Journal, _mark
from mergesafe.data.run import _is_response
from mergesafe.data.safety_set import _is_outcome
from mergesafe.errors import OutputError


class Work:
    def __init__(self) -> None:
        self.pieces: list[tuple[int, list[str]]] = []

    def __call__(self, begin: int, piece: Sequence[str]) -> list[str]:
        self.pieces.append((begin, list(piece)))
        return [each.upper() for each in piece]


def run(
    folder: Path, items: list[str], subject: object = "s", size: int = 2
) -> tuple[list[str], Work]:
    work = Work()
    with Journal(folder) as journal:
        return journal.pieces(subject, items, size, work), work


def test_known_pieces_are_not_done_again(tmp_path: Path) -> None:
    assert run(tmp_path, list("abcde"))[0] == list("ABCDE")
    again, work = run(tmp_path, list("abcde"))
    assert (again, work.pieces) == (list("ABCDE"), [])
    more, work = run(tmp_path, list("abcdx"))
    assert (more, work.pieces) == (list("ABCDX"), [(4, ["x"])])
    _, work = run(tmp_path, list("abcde"), subject="another model")
    assert len(work.pieces) == 3


@pytest.mark.parametrize("lost", [1, 2, 20])
def test_a_torn_line_is_forgotten(lost: int, tmp_path: Path) -> None:
    run(tmp_path, list("abcd"))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-lost])
    result, work = run(tmp_path, list("abcd"))
    assert (result, work.pieces) == (list("ABCD"), [(2, ["c", "d"])])
    assert run(tmp_path, list("abcd"))[1].pieces == []


def test_a_changed_line_is_forgotten(tmp_path: Path) -> None:
    run(tmp_path, list("abcd"))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes().replace(b'"A"', b'"Z"'))
    assert run(tmp_path, list("abcd"))[0] == list("ABCD")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(OutputError, match="another mergesafe generate"):
        Journal(tmp_path)


def test_lone_surrogates_survive(tmp_path: Path) -> None:
    first, work = run(tmp_path, ["\ud800a"])
    assert (first, len(work.pieces)) == (["\ud800A"], 1)
    again, work = run(tmp_path, ["\ud800a"])
    assert (again, work.pieces) == (first, [])


BAD = {
    "no JSON": b"x",
    "no pair": b'["k"]',
    "no list": b'["k", 1]',
    "a key that is no text": b"[[], []]",
    "a number of 5,000 digits": b"9" * 5000,
    "endless nesting": b"[" * 100_000,
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_line_with_a_good_digest_may_still_be_a_strangers(body: bytes, tmp_path: Path) -> None:
    run(tmp_path, list("ab"))
    path = tmp_path / NAME
    good = path.read_bytes()
    path.write_bytes(good + body + b"\t" + _mark(body) + b"\n")
    assert run(tmp_path, list("abcd"))[0] == list("ABCD")
    assert path.read_bytes().startswith(good)


def test_results_that_the_work_does_not_give_are_asked_for_again(tmp_path: Path) -> None:
    run(tmp_path, list("abcd"))
    work = Work()
    with Journal(tmp_path) as journal:
        journal.pieces("s", list("abcd"), 2, work, fits=lambda result: result != "A")
    assert work.pieces == [(0, ["a", "b"])]
    for good, value in (
        (True, ["refused", "No."]), (True, ["undecided", None]), (False, ["refused", None]),
        (False, ["undecided", "No."]), (False, ["safe", "No."]), (False, [[], None]), (False, "ab"),
        (False, ["refused"]), (False, None),
    ):  # fmt: skip
        assert _is_outcome(value) is good
    assert [_is_response(each) for each in (["a", True], ["a", 1], ["a"], [None, True], 3)] == [
        True, False, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["link", "hard link", "pipe", "folder"])
def test_what_others_put_in_its_place_is_refused(tmp_path: Path, how: str) -> None:
    folder, victim = tmp_path / "out", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious\n")
    place = folder / NAME
    {
        "link": lambda: place.symlink_to(victim),
        "hard link": lambda: os.link(victim, place),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
    }[how]()
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(folder)
    assert victim.read_text() == "precious\n"


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
