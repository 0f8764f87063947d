"""Real data: the same filters, schema and provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mergesafe import generate
from mergesafe.chat.records import read_records
from mergesafe.errors import DataError, OutputError

pytest.importorskip("datasketch")

ROWS = [{"q": f"What is {i} + {i}?", "a": str(2 * i), "topic": "sums"} for i in range(10)]
TEMPLATE = {"provider": "template"}
COLUMNS = {"question": "q", "answer": "a"}


def recipe(**source: Any) -> dict[str, Any]:
    return {"sets": {"sums": {"kind": "real", **source}}}


def written(folder: Path, rows: list[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, [*ROWS, {"q": "what is 3 + 3", "a": "6"}])
    generate(recipe(file=path, columns=COLUMNS), tmp_path / "out")
    found = read_records(tmp_path / "out/sums.jsonl", need_answer=True)
    assert [each.answer for each in found] == [str(2 * i) for i in range(10)]
    provenance = found[3].extra["provenance"]
    assert (provenance["topic"], provenance["record"]) == ("sums", 4)
    assert provenance["answered_by"] == "rows.jsonl"
    card = json.loads((tmp_path / "out/sums.card.json").read_text())
    assert card["discarded"] == {"duplicate question": 1}


def test_conversations_with_one_last_question_are_no_duplicates(tmp_path: Path) -> None:
    """What was said before tells them apart."""
    first = ["What is a lock made of?", "How does a whale sleep at sea?", "What is a lock made of?"]
    rows = [
        {"messages": [
            {"role": "user", "content": text}, {"role": "assistant", "content": "So."},
            {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "Then so."},
        ]}
        for text in first
    ]  # fmt: skip
    generate(recipe(file=written(tmp_path, rows)), tmp_path / "out")
    assert len(read_records(tmp_path / "out/sums.jsonl", need_answer=True)) == 2


def test_a_part_drawn_by_seed(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    asked = recipe(file=path, columns=COLUMNS, count=4)
    for seed, folder in ((0, "a"), (0, "b"), (1, "c")):
        generate({**asked, "seed": seed}, tmp_path / folder)
    texts = [(tmp_path / each / "sums.jsonl").read_text() for each in "abc"]
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 4
    assert [json.loads(line)["messages"] for line in texts[0].splitlines()] != [
        json.loads(line)["messages"] for line in texts[2].splitlines()
    ]


def test_too_few_records_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    asked = recipe(file=path, columns=COLUMNS, count=100)
    assert generate(asked, tmp_path / "few").warnings == ("set 'sums': 10 of 100 records found",)
    assert not generate(recipe(file=path, columns=COLUMNS, count=10), tmp_path / "all").warnings


def test_generated_data_keep_where_they_came_from(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "q", "answer": "a", "provenance": {"judge": "j"}}])
    generate(recipe(file=path), tmp_path / "out")
    (found,) = read_records(tmp_path / "out/sums.jsonl")
    assert found.extra["provenance"]["before"] == {"judge": "j"}


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"q": "a", "a": "b"}, {"q": "a"}], ":2: there is no column 'a'; found q"),
        ([{"q": "a", "a": 3}], ":1: 'answer' must hold text"),
        ([], "there is no record"),
        ([3], ":1: expected a JSON object, found int"),
    ],
)
def test_malformed(rows: list[Any], complaint: str, tmp_path: Path) -> None:
    path = written(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        generate(recipe(file=path, columns=COLUMNS), tmp_path / "out")
    assert str(caught.value).startswith(path)
    assert complaint in str(caught.value)


def test_a_source_is_never_replaced(tmp_path: Path) -> None:
    path = Path(written(tmp_path, ROWS))
    before = path.read_bytes()
    asked = {"sets": {"rows": {"kind": "real", "file": str(path), "columns": COLUMNS}}}
    with pytest.raises(OutputError, match=r"rows\.jsonl: is a file that is read"):
        generate(asked, tmp_path, overwrite=True)
    assert path.read_bytes() == before


def test_questions_without_answers_are_no_training_data(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "a"}])
    with pytest.raises(DataError, match=":1: the record has no answer"):
        generate(recipe(file=path), tmp_path / "out")


def test_nothing_left(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "a b c d", "answer": "b"}])
    with pytest.raises(DataError, match=r"no record of rows\.jsonl is left"):
        generate({**recipe(file=path), "evaluation": [path]}, tmp_path / "out")


def test_a_data_set_of_the_package(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    generate(recipe(dataset=str(tmp_path / "saved"), columns=COLUMNS), tmp_path / "out")
    assert len(read_records(tmp_path / "out/sums.jsonl")) == 10
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    asked = recipe(dataset=str(folder), split="test", columns=COLUMNS)
    generate(asked, tmp_path / "second")
    assert len(read_records(tmp_path / "second/sums.jsonl")) == 10
    with pytest.raises(DataError, match="cannot be loaded"):
        generate(recipe(dataset=str(folder), split="nothing"), tmp_path / "third")


def test_a_malformed_file_is_told_before_other_sets_are_made(tmp_path: Path) -> None:
    first = {"kind": "safety", "questions": {"provider": "template"}, "pool": [TEMPLATE]}
    second = {"kind": "real", "file": written(tmp_path, [{"question": "a"}])}
    with pytest.raises(DataError, match="no answer"):
        generate({"sets": {"first": first, "second": second}}, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
