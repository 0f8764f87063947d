"""Records read back as they were written; what is malformed is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mergesafe.chat.conversation import question
from mergesafe.chat.records import Record, read_records, write_records
from mergesafe.errors import DataError


def written(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


@pytest.mark.parametrize(
    "record",
    [
        Record(question("Why?")),
        Record(question("Why?", "Be brief."), "Because.", None, {"provenance": {"seed": 1}}),
        Record(question("Wie?"), "So — nämlich.", "Nein."),
    ],
)
def test_round_trip(record: Record, tmp_path: Path) -> None:
    assert read_records(written(tmp_path, write_records([record]))) == [record]


@pytest.mark.parametrize(
    ("line", "question_text", "answer"),
    [
        ({"question": "a", "answer": "b"}, "a", "b"),
        ({"instruction": "a", "output": "b", "id": 7}, "a", "b"),
        ({"prompt": "a", "completion": "b"}, "a", "b"),
        ({"prompt": "a"}, "a", None),
        ({"messages": [{"role": "user", "content": "a"}]}, "a", None),
    ],
)
def test_other_spellings(
    line: object, question_text: str, answer: str | None, tmp_path: Path
) -> None:
    (record,) = read_records(written(tmp_path, "", line))
    assert record.conversation == question(question_text)
    assert record.answer == answer


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not a JSON object"),
        ("[1]", "expected a JSON object, found list"),
        ({"text": "a"}, "found text"),
        ({"question": ""}, "'question' must hold text"),
        ({"question": 3}, "'question' must hold text"),
        ({"question": "half \ud83d"}, "half a surrogate pair ('\\ud83d')"),
        ({"messages": []}, "'messages' must be a list of turns"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "needs a 'role'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "must end with"),
        ({"prompt": "a", "chosen": "b"}, "both 'chosen' and 'rejected'"),
        ({"prompt": [{"role": "assistant", "content": "a"}], "completion": "b"}, "ask something"),
    ],
)
def test_what_is_malformed(line: object, complaint: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"question": "fine"}, line)
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert complaint in str(caught.value)


def test_an_answer_that_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answer"):
        read_records(written(tmp_path, {"question": "a"}), need_answer=True)


def test_an_empty_or_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record"):
        read_records(written(tmp_path, ""))
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "missing")
