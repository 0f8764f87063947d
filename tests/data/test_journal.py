"""The journal: whole lines are used, torn ones forgotten, other questions asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mergesafe.data.journal import NAME, Journal
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
