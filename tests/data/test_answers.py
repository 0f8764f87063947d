"""What models have answered: known answers are used, others asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from mergesafe.data.answers import NAME, Answers, digest
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
    with Answers(folder) as answers:
        return answers.pieces(subject, items, size, work), work


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


def test_a_changed_line_is_refused(tmp_path: Path) -> None:
    run(tmp_path, list("abcd"))
    path = tmp_path / NAME
    damaged = path.read_bytes().replace(b'"A"', b'"Z"')
    path.write_bytes(damaged)
    with pytest.raises(
        OutputError, match=r"line 2 of its journal is damaged.*--overwrite in place"
    ):
        run(tmp_path, list("abcd"))
    assert path.read_bytes() == damaged
    with Answers(tmp_path, resume=False) as answers:
        assert answers.pieces("s", ["a"], 2, Work()) == ["A"]


def test_what_the_first_version_wrote_is_used(tmp_path: Path) -> None:
    """It wrote no header, and text as it is."""
    path = tmp_path / NAME
    content = []
    for begin, piece in ((0, ["ä", "\ud800"]), (2, ["c"])):
        body = json.dumps([digest(["s", begin, piece]), piece], ensure_ascii=False)
        data = body.encode("utf-8", "surrogatepass")
        content.append(data + b"\t" + sha256(data).hexdigest()[:16].encode() + b"\n")
    path.write_bytes(b"".join(content))
    for _ in range(2):
        found, work = run(tmp_path, ["ä", "\ud800", "c"])
        assert (found, work.pieces) == (["ä", "\ud800", "c"], [])
    assert path.read_bytes().startswith(b'{"mergesafe_journal":"generate",')


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Answers(tmp_path), pytest.raises(OutputError, match="another mergesafe generate"):
        Answers(tmp_path)


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
    path.write_bytes(good + body + b"\t" + sha256(body).hexdigest()[:16].encode() + b"\n")
    assert run(tmp_path, list("abcd"))[0] == list("ABCD")
    assert path.read_bytes().startswith(good)


def test_results_that_the_work_does_not_give_are_asked_for_again(tmp_path: Path) -> None:
    run(tmp_path, list("abcd"))
    work = Work()
    with Answers(tmp_path) as answers:
        answers.pieces("s", list("abcd"), 2, work, fits=lambda result: result != "A")
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
