"""Records read back as they were written; what is malformed is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mergesafe.chat import tables
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


def saved(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8-sig")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.csv", 'question,answer,id\n"Why, and ""how""?",Because.,1\n\nWho?,,2\n'),
        ("d.csv", 'question;answer;id\n"Why, and ""how""?";Because.;1\nWho?;;2\n'),
        ("d.tsv", 'question\tanswer\tid\n"Why, and ""how""?"\tBecause.\t1\nWho?\t\t2\n'),
        (
            "d.json",
            ' [{"question": "Why, and \\"how\\"?", "answer": "Because.", "id": "1"},\n'
            '  {"question": "Who?", "answer": null, "id": "2"}]',
        ),
    ],
)
def test_tables_and_lists(name: str, text: str, tmp_path: Path) -> None:
    assert read_records(saved(tmp_path, name, text)) == [
        Record(question('Why, and "how"?'), "Because.", None, {"id": "1"}),
        Record(question("Who?"), None, None, {"id": "2"}),
    ]


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    path = tmp_path / "d.parquet"
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    parquet.write_table(pa.Table.from_pylist([{"messages": turns, "id": 1}]), path)
    assert read_records(path) == [Record(question("Why?"), "So.", None, {"id": 1})]
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_records(path)
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        read_records(path)


GOALS = "goal,target,prompt\nWhy?,So.,unused\n"


@pytest.mark.parametrize(
    ("text", "columns", "answer"),
    [
        (GOALS, {"question": "goal"}, None),
        (GOALS, {"question": "goal", "answer": "target"}, "So."),
        ("prompt,reply\nWhy?,So.\n", {"answer": "reply"}, "So."),
        ("instruction,reply\nWhy?,So.\n", {"answer": "reply"}, "So."),
    ],
)
def test_named_columns(
    text: str, columns: dict[str, str], answer: str | None, tmp_path: Path
) -> None:
    [record] = read_records(saved(tmp_path, "d.csv", text), columns=columns)
    assert (record.conversation, record.answer) == (question("Why?"), answer)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("d.csv", GOALS.replace("prompt", "x"), ":2: expected 'messages', 'prompt' or 'question' "
                                                "in the record; found goal, target, x"),
        ("d.csv", "question,question\nWhy?,So.\n", ":1: two columns are called 'question'"),
        ("d.csv", 'question\n"Why\nnot?"\nWho, what?\n', ":4: 2 cells where the first line"),
        # A quote without its other one would take all that follows into its cell.
        ("d.csv", 'question\nWhy?\n"Who\nWhat?\n', ":3: is no table of text (unexpected end"),
        ("d.csv", 'question\n"Who" is it?\n', ":2: is no table of text ("),
        ("D.CSV", "", ": expected the names of the columns"),
        ("d.csv", "", ": expected the names of the columns"),
        ("d.csv", "question\n", ": there is no record in the file"),
        ("d.json", '[{"question": "Why?"}, 3]', ": record 2: expected a JSON object, found int"),
        ("d.json", "[1", ": is not a JSON list of objects"),
        ("d.json", "[]", ": there is no record in the file"),
    ],
)  # fmt: skip
def test_malformed_tables_and_lists(name: str, text: str, complaint: str, tmp_path: Path) -> None:
    path = saved(tmp_path, name, text)
    with pytest.raises(DataError) as caught:
        read_records(path)
    assert str(caught.value).replace(":1: is", ": is").startswith(f"{path}{complaint}")


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path, "d.csv", GOALS)
    with pytest.raises(DataError) as caught:
        read_records(path, columns={"question": "goals"})
    assert str(caught.value) == (
        f"{path}:2: there is no column 'goals' (did you mean 'goal'?); found goal, prompt, target"
    )


def test_parquet_that_python_cannot_hold(tmp_path: Path) -> None:
    """Text that is not UTF-8, dates without end, and two columns of one name."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    bad = [pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    columns = {
        "text": {"question": pa.Array.from_buffers(pa.string(), 1, [None, *bad])},
        "date": {"question": ["Why?"], "at": pa.array([2**30], pa.date32())},
        "time": {"question": ["Why?"], "at": pa.array([2**62], pa.timestamp("us"))},
    }
    for name, found in columns.items():
        path = tmp_path / f"{name}.parquet"
        write_table(pa.table(found), path)
        with pytest.raises(DataError, match=f"{name}.parquet: cannot be read as parquet"):
            read_records(path)
    both = pa.table([pa.array(["Why?"]), pa.array(["Who?"])], names=["question", "question"])
    write_table(both, tmp_path / "both.parquet")
    with pytest.raises(DataError, match="two columns are called 'question'"):
        read_records(tmp_path / "both.parquet")
