"""Domain sets: equal shares, own answers, nothing of the examples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, Messages, serve

from mergesafe import generate
from mergesafe.chat.records import read_records
from mergesafe.errors import DataError

from .models import as_json, spec

pytest.importorskip("openai")
pytest.importorskip("datasketch")

EXAMPLES = ["What is 1 + 1?", "What is 2 + 2?", "What is 3 + 3?", "What is 4 + 4?"]


class Experts(Endpoint):
    """``adder`` and ``taker`` write sums and differences; answers come from the question."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.answers: dict[str, str] = {}
        self.questions: list[str] = []

    def respond(self, model: str, messages: Messages) -> str:
        asked = messages[-1]["content"]
        if not asked.startswith("Write a new exam question"):
            return self.answers.get(asked, f"It is {asked}")
        with self.lock:
            self.written += 1
            if self.questions:
                return self.questions.pop(0)
            sign = {"adder": "+", "taker": "-"}[model]
            return as_json(f"What is {100 + self.written} {sign} {self.written}?")


@pytest.fixture
def end() -> Iterator[Experts]:
    with serve(Experts()) as served:
        assert isinstance(served, Experts)
        yield served


def recipe(end: Experts, *names: str, count: int, **options: Any) -> dict[str, Any]:
    experts = [
        {"name": f"{name}'s sums", "model": spec(end, name, concurrency=1), "examples": EXAMPLES}
        for name in names
    ]
    return {"sets": {"maths": {"kind": "domain", "experts": experts, "count": count}}, **options}


def test_shares_and_provenance(end: Experts, tmp_path: Path) -> None:
    generate(recipe(end, "adder", "taker", count=7), tmp_path)
    found = read_records(tmp_path / "maths.jsonl", need_answer=True)
    by = [each.extra["provenance"]["answered_by"] for each in found]
    assert by == ["adder"] * 4 + ["taker"] * 3
    assert all(r.answer == f"It is {r.conversation[0]['content']}" for r in found)
    provenance = found[0].extra["provenance"]
    assert provenance["asked_by"] == "adder"
    assert provenance["topic"] == "adder's sums"
    assert provenance["judge"] is None
    card = json.loads((tmp_path / "maths.card.json").read_text())
    assert card["topics"] == {"adder's sums": 4, "taker's sums": 3}
    asking = [r for r in end.requests if len(r["messages"]) > 1]
    answering = [r for r in end.requests if len(r["messages"]) == 1]
    assert {r["temperature"] for r in asking} == {0.8}
    assert {r["temperature"] for r in answering} == {0}
    shown = [turn["content"] for turn in asking[0]["messages"] if turn["role"] == "assistant"]
    assert len(shown) == 3
    assert {json.loads(each)["Question"] for each in shown} <= set(EXAMPLES)
    assert len({json.dumps(r["messages"]) for r in asking}) > 1  # examples are drawn anew


def test_leaks_duplicates_and_bad_answers_are_left_out(end: Experts, tmp_path: Path) -> None:
    end.questions = [
        as_json("what is 4 + 4"),
        "What is 9 + 9?",
        as_json("What is 7 + 7?"),
        as_json("What is 7 + 7?!"),
        as_json("What is 5 + 6?"),
        as_json("What is 8 + 8?"),
    ]
    end.answers = {"What is 8 + 8?": " "}
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "What is 5 + 6?"}))
    generate(
        recipe(end, "adder", count=3, evaluation=[str(tmp_path / "test.jsonl")]), tmp_path / "out"
    )
    card = json.loads((tmp_path / "out/maths.card.json").read_text())
    assert card["discarded"] == {
        "duplicate question": 1,
        "empty answer": 1,
        "in an evaluation set": 1,
        "question not parsed": 1,
        "repeats an example": 1,
    }
    assert card["records"] == 2


def test_an_expert_that_writes_nothing_usable(end: Experts, tmp_path: Path) -> None:
    end.questions = ["no"] * 1000
    with pytest.raises(DataError, match=r"expert 'adder's sums' .* no usable question"):
        generate(recipe(end, "adder", count=2), tmp_path)
