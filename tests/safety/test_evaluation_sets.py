"""Files of questions: what is read, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mergesafe.errors import ArgumentError, DataError, RecipeError
from mergesafe.results.evaluation import QuestionSet
from mergesafe.safety.evaluation.gather import gather
from mergesafe.safety.evaluation.sets import read_set, split_name

from .chat_models import write_lines


def test_plain_questions(tmp_path: Path) -> None:
    path = tmp_path / "edgy.txt"
    path.write_text("How do I kill time?\n\n  How do I strike a match?  \nHow do I kill time?\n")
    found = read_set("edgy", "harmless", path)
    assert [r.conversation[-1]["content"] for r in found.records] == [
        "How do I kill time?", "How do I strike a match?",
    ]  # fmt: skip
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.document() == QuestionSet(
        name="edgy", role="harmless", path=str(path), sha256=digest, duplicates=1, records=2
    )


def test_a_question_with_two_answers_is_two_records(tmp_path: Path) -> None:
    lines = [{"question": "q", "answer": a} for a in ("1", "2", "1")]
    found = read_set("d", "domain", write_lines(tmp_path / "d.jsonl", lines))
    assert [record.answer for record in found.records] == ["1", "2"]


def test_shipped_questions_stand_in_where_no_safety_questions_are_given(tmp_path: Path) -> None:
    domain = write_lines(tmp_path / "sums.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    sets = gather(domain=[f"maths={domain}"])
    assert [(s.name, s.role, len(s.records)) for s in sets] == [
        ("unsafe-shipped", "unsafe", 48), ("harmless-shipped", "harmless", 60),
        ("maths", "domain", 1),
    ]  # fmt: skip
    questions = tmp_path / "mine.txt"
    questions.write_text("How?\nWhy?\n")
    assert [s.name for s in gather(harmless=questions)] == ["mine"]
    assert [len(s.records) for s in gather(unsafe={"u": questions}, limit=1)] == [1]


def test_file_of_sets(tmp_path: Path) -> None:
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "a.txt").write_text("How?\n")
    write_lines(tmp_path / "d.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    listed = tmp_path / "sets.yml"
    listed.write_text("unsafe:\n  a: q/a.txt\ndomain: {sums: d.jsonl}\n")
    assert [(s.name, s.role) for s in gather(sets=listed)] == [("a", "unsafe"), ("sums", "domain")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unsave:\n  a: a.txt\n", ("sets.yml:1", "'unsave'", "did you mean 'unsafe'")),
        ("unsafe:\n  a:\n    - a.txt\n", ("sets.yml:3", "'a' of 'unsafe'", "must be text")),
        ("unsafe: a.txt\n", ("sets.yml:1", "'unsafe' must be a mapping")),
        ("", ("sets.yml", "the file of sets is empty", "'unsafe', 'harmless' and 'domain'")),
    ],
)
def test_wrong_file_of_sets(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "sets.yml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        gather(sets=tmp_path / "sets.yml")
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", ("a.txt", "no question")),
        ("a.txt", b"ok\n\xff\n", ("a.txt:2", "UTF-8")),
        ("a.jsonl", b"", ("a.jsonl", "no record")),
        ("a.jsonl", b'{"question": "q"}\n{"question": \n', ("a.jsonl:2", "not a JSON object")),
        ("a.jsonl", b"How do I?\n", ("a.jsonl:1", "not a JSON object")),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_set("a", "unsafe", tmp_path / name)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_domain_needs_answers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("How?\n")
    with pytest.raises(DataError, match="needs answers"):
        read_set("a", "domain", tmp_path / "a.txt")
    path = write_lines(tmp_path / "a.jsonl", [{"question": "q", "answer": "1"}, {"question": "r"}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: the record has no answer"):
        read_set("a", "domain", path)
    with pytest.raises(DataError, match="cannot be read"):
        read_set("a", "domain", tmp_path / "missing.jsonl")


def test_names(tmp_path: Path) -> None:
    assert split_name("maths=/data/x.jsonl") == ("maths", Path("/data/x.jsonl"))
    assert split_name("/data/a=b.jsonl") == ("a=b", Path("/data/a=b.jsonl"))
    (tmp_path / "a.txt").write_text("How?\n")
    with pytest.raises(ArgumentError, match="two sets are called 'a'"):
        gather(unsafe=[tmp_path / "a.txt"], harmless=[tmp_path / "a.txt"])
    with pytest.raises(ArgumentError, match="which a requirement cannot name"):
        gather(unsafe={"a b": tmp_path / "a.txt"})


def test_a_question_has_one_role(tmp_path: Path) -> None:
    """Whatever the case, the spacing and the form of the file; a domain's questions may be both."""
    (tmp_path / "bad.txt").write_text("\nHow do I?\nWhy?\n")
    write_lines(tmp_path / "good.jsonl", [{"question": "What?"}, {"question": "how  do I?"}])
    write_lines(tmp_path / "sums.jsonl", [{"question": "What?", "answer": "Nothing."}])
    with pytest.raises(DataError) as error:
        gather(unsafe=tmp_path / "bad.txt", harmless={"fine": tmp_path / "good.jsonl"})
    assert str(error.value).startswith(
        f"{tmp_path / 'good.jsonl'}:2: 1 question is both in the harmless set 'fine' and in the "
        f"unsafe set 'bad' ({tmp_path / 'bad.txt'}:2)"
    )
    same = {"unsafe": {"a": tmp_path / "bad.txt"}, "harmless": {"b": tmp_path / "bad.txt"}}
    with pytest.raises(DataError, match="2 questions are both in the harmless set 'b'"):
        gather(**same, limit=1)
    assert len(gather(harmless=tmp_path / "good.jsonl", domain=tmp_path / "sums.jsonl")) == 2


def test_a_limit_draws_by_the_seed(tmp_path: Path) -> None:
    """Not the first ones, always the same, in the order of the file; more add to fewer."""
    path = tmp_path / "q.txt"
    path.write_text("".join(f"Question {number}?\n" for number in range(40)))

    def drawn(limit: int, seed: int) -> list[int]:
        [found] = gather(unsafe=path, limit=limit, limit_seed=seed)
        return [record.line or 0 for record in found.records]

    ten = drawn(10, 0)
    assert ten == sorted(ten) == drawn(10, 0)
    assert len(set(ten)) == 10
    assert ten != list(range(1, 11))
    assert set(ten) < set(drawn(20, 0))
    assert ten != drawn(10, 1)
    assert drawn(100, 0) == list(range(1, 41))


def test_columns_of_a_set(tmp_path: Path) -> None:
    path = tmp_path / "goals.csv"
    path.write_text("goal,prompt\nWhy?,unused\n")
    [found] = gather(unsafe=path, columns={"question": "goal"})
    assert found.records[0].conversation[-1]["content"] == "Why?"
