"""What is optimised on and what is verified on never meet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mergesafe.errors import DataError
from mergesafe.tune.data.splits import Split, load_splits, question_key
from mergesafe.tune.lint import lint_answers
from mergesafe.tune.section.sections import DataSet, Role, TuneSection

REFUSAL = "I can't help with that."


def written(path: Path, questions: Sequence[str], answer: str | None = REFUSAL) -> Path:
    records = [{"question": q} | ({"answer": answer} if answer else {}) for q in questions]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def splits(folder: Path, *sets: DataSet, seed: int = 0) -> tuple[Split, ...]:
    return load_splits(TuneSection(sets, (), (), (), seed=seed), folder)


def data(name: str, role: Role = "domain", heldout: str | None = None) -> DataSet:
    return DataSet(name, f"{name}.jsonl", role, heldout=heldout)


def questions(split: Split) -> tuple[set[str], set[str]]:
    return ({question_key(r) for r in part} for part in (split.train, split.heldout))  # type: ignore[return-value]


def test_a_fifth_is_held_out(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", [f"question {i}" for i in range(50)])
    (split,) = splits(tmp_path, data("a"))
    train, heldout = questions(split)
    assert (len(train), len(heldout)) == (40, 10)
    assert not train & heldout


def test_a_question_stays_on_its_side(tmp_path: Path) -> None:
    """Whatever the order of the file, other case and spacing, and repetition."""
    asked = [f"question {i}" for i in range(20)]
    written(tmp_path / "a.jsonl", asked)
    written(tmp_path / "b.jsonl", [q.upper().replace(" ", "   ") for q in reversed(asked)] + asked)
    sides = [questions(splits(tmp_path, data(name))[0]) for name in "ab"]
    assert [set(side) for side in sides[0]] == [set(side) for side in sides[1]]


def test_the_seed_chooses(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", [f"question {i}" for i in range(20)])
    first, second = (
        {question_key(r) for r in splits(tmp_path, data("a"), seed=seed)[0].heldout}
        for seed in (0, 1)
    )
    assert first != second


@pytest.mark.parametrize(
    ("sets", "places"),
    [
        ((data("a"), data("b", "safety")), ("b.jsonl:2", "line 3 of", "(set 'b'", "(set 'a'")),
        ((data("a", heldout="b.jsonl"),), ("b.jsonl:2", "line 3 of", "(set 'a', held out)")),
        (
            (data("a", heldout="a.jsonl"),),
            ("a.jsonl: ", "as set 'a' and as set 'a', held"),
        ),
        ((data("a"), DataSet("x", "./a.jsonl", "safety")), ("twice, as set 'a' and as set 'x'",)),
    ],
)
def test_overlap_is_refused_by_line(
    sets: tuple[DataSet, ...], places: tuple[str, ...], tmp_path: Path
) -> None:
    written(tmp_path / "a.jsonl", ["one", "two", "Three?", "four", "five"])
    written(tmp_path / "b.jsonl", ["six", "three?", "seven"])
    with pytest.raises(DataError) as caught:
        splits(tmp_path, *sets)
    for place in places:
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "answer", "role", "words"),
    [
        (["one"], REFUSAL, "domain", "the same question"),
        (["one", "One"], REFUSAL, "domain", "the same question"),
        ([], REFUSAL, "domain", "no record"),
        (["one", "two"], None, "safety", "a.jsonl:1: the record has no answer"),
        (["one", "two"], REFUSAL, "preference", "a.jsonl:1: the record has no rejected"),
    ],
)
def test_bad_data(
    asked: list[str], answer: str | None, role: Role, words: str, tmp_path: Path
) -> None:
    written(tmp_path / "a.jsonl", asked, answer)
    with pytest.raises(DataError, match=words):
        splits(tmp_path, data("a", role))


def test_harmless_questions_need_no_answer(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", ["one", "two"], None)
    (split,) = splits(tmp_path, data("a", "harmless"))
    assert len(split.train) == len(split.heldout) == 1


def test_a_safety_answer_that_complies_is_told(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", ["one", "two", "three"])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"question": "four", "answer": "Sure: [REDACTED]"}) + "\n")
    written(tmp_path / "held.jsonl", ["five"])
    loaded = splits(tmp_path, data("a", "safety", heldout="held.jsonl"))
    (warning,) = lint_answers(loaded)
    assert "1 of 4 answers of the safety set 'a' do not refuse" in warning
    assert "(line 4)" in warning
