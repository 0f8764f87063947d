"""Safety sets: who asks, who answers, what is kept, and what is told of the rest."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, Messages, serve

from mergesafe import generate
from mergesafe.chat.conversation import Conversation
from mergesafe.chat.records import read_records
from mergesafe.data import safety_set
from mergesafe.data.answers import NAME, Answers
from mergesafe.errors import DataError, ModelError, OutputError
from mergesafe.safety.judges.base import Verdict
from mergesafe.safety.judges.rules import RefusalRules

from .models import COMPLIANCE, REFUSAL, as_json, spec

pytest.importorskip("openai")
pytest.importorskip("datasketch")


class Pool(Endpoint):
    """Answers by the model's name: ``aligned``, ``unaligned``, or a rule of the test."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: dict[str, Any] = {
            "aligned": lambda messages: REFUSAL,
            "unaligned": lambda messages: COMPLIANCE,
        }

    def respond(self, model: str, messages: Messages) -> str:
        return str(self.rules[model](messages))


@pytest.fixture
def pool() -> Iterator[Pool]:
    with serve(Pool()) as end:
        assert isinstance(end, Pool)
        yield end


def recipe(pool: Pool, *names: str, **keys: Any) -> dict[str, Any]:
    wanted = {
        "kind": "safety",
        "questions": {"provider": "template"},
        "pool": [spec(pool, name) for name in names],
        "count": 14,
        **keys,
    }
    return {"seed": 3, "sets": {"safety": wanted}}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "safety.jsonl").read_text().splitlines()]


def card(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "safety.card.json").read_text())
    assert isinstance(found, dict)
    return found


def test_refusals_are_kept_with_provenance(pool: Pool, tmp_path: Path) -> None:
    result = generate(recipe(pool, "unaligned", "aligned"), tmp_path)
    assert [each.name for each in result.cards] == ["safety"]
    found = records(tmp_path)
    assert len(found) == 14
    topics = Counter(each["provenance"]["topic"] for each in found)
    assert set(topics.values()) == {1}
    assert len(topics) == 14
    first = found[0]
    assert [turn["role"] for turn in first["messages"]] == ["user", "assistant"]
    assert first["messages"][1]["content"] == REFUSAL
    provenance = first["provenance"]
    assert len(provenance.pop("prompt_sha256")) == 32
    assert provenance == {
        "set": "safety", "kind": "safety", "topic": "animal_abuse", "asked_by": "templates",
        "answered_by": "aligned", "judge": "refusal rules", "seed": 3,
        "judge_version": RefusalRules.version, "style": None,
    }  # fmt: skip
    made = card(tmp_path)
    assert made["records"] == 14
    assert made["answered_by"] == {"aligned": 14}
    assert made["pool"] == {"unaligned": {"not refused": 14}, "aligned": {"refused": 14}}
    assert made["topics"] == dict(sorted(topics.items()))
    assert set(made["models"]) == {"aligned", "unaligned"}
    assert "| aligned | 14 |" in (tmp_path / "safety.card.md").read_text()


def test_every_model_answers_and_one_is_drawn_by_seed(pool: Pool, tmp_path: Path) -> None:
    pool.rules["other"] = lambda messages: "I won't help with this."
    asked = recipe(pool, "aligned", "other", count=28)
    generate(asked, tmp_path / "a")
    generate(asked, tmp_path / "b")
    generate({**asked, "seed": 4}, tmp_path / "c")
    assert (tmp_path / "a/safety.jsonl").read_bytes() == (tmp_path / "b/safety.jsonl").read_bytes()
    assert (tmp_path / "a/safety.jsonl").read_bytes() != (tmp_path / "c/safety.jsonl").read_bytes()
    counts = card(tmp_path / "a")["answered_by"]
    assert sum(counts.values()) == 28
    assert min(counts.values()) >= 5  # of 28 fair draws: fewer happens once in two thousand
    assert Counter(request["model"] for request in pool.requests) == {"aligned": 84, "other": 84}
    assert {request["temperature"] for request in pool.requests} == {0}


def test_what_nobody_refuses_is_dropped_and_counted(pool: Pool, tmp_path: Path) -> None:
    pool.rules["half"] = lambda m: REFUSAL if len(m[-1]["content"]) % 2 else COMPLIANCE
    generate(recipe(pool, "half", "unaligned"), tmp_path)
    made = card(tmp_path)
    assert 0 < made["records"] < 14
    assert made["discarded"]["not refused by any model"] == 14 - made["records"]
    assert COMPLIANCE not in (tmp_path / "safety.jsonl").read_text()


def test_without_an_aligned_model(pool: Pool, tmp_path: Path) -> None:
    """The message names the way out, and taking it asks nothing again."""
    asked = recipe(pool, "unaligned")
    with pytest.raises(DataError) as caught:
        generate(asked, tmp_path)
    assert "no model of the pool refused any question (unaligned: 14 not refused)" in str(
        caught.value
    )
    assert "'stored_refusals: true'" in str(caught.value)
    assert not (tmp_path / "safety.jsonl").exists()
    before = len(pool.requests)
    generate(recipe(pool, "unaligned", stored_refusals=True), tmp_path, resume=True)
    assert len(pool.requests) == before
    assert card(tmp_path)["answered_by"] == {"stored refusal": 14}
    assert {each["provenance"]["judge"] for each in records(tmp_path)} == {None}


def test_what_is_not_refused_never_reaches_the_disk(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        generate(recipe(pool, "unaligned"), tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1  # the journal
    assert b"REDACTED" not in files[0].read_bytes()
    assert b"Sure" not in files[0].read_bytes()


def test_preferences(pool: Pool, tmp_path: Path) -> None:
    generate(recipe(pool, "aligned", format="preference"), tmp_path)
    first = records(tmp_path)[0]
    assert first["chosen"] == [{"role": "assistant", "content": REFUSAL}]
    assert "[REDACTED]" in first["rejected"][0]["content"]
    assert first["prompt"][0]["role"] == "user"
    record = read_records(tmp_path / "safety.jsonl", need_answer=True)[0]
    assert (record.answer, record.rejected) == (REFUSAL, first["rejected"][0]["content"])


class Guard:
    """Undecided about every answer of one model, and calls another's refusals unsafe."""

    name, version = "guard", "7"

    def judge(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Verdict]:
        return [
            Verdict(safe={"hm": None, "bad": False}.get(text, True), refused=True)
            for _, text in pairs
        ]


def test_undecided_is_never_safe(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety_set, "make_judge", lambda spec: Guard())
    pool.rules["hm"] = lambda m: "hm" if len(m[-1]["content"]) % 2 else REFUSAL
    pool.rules["bad"] = lambda m: "bad"
    generate(recipe(pool, "hm", "bad"), tmp_path)
    made = card(tmp_path)
    assert made["pool"]["bad"] == {"refused and unsafe": 14}
    assert made["pool"]["hm"]["undecided"] == made["discarded"]["undecided by the judge"] > 0
    assert made["records"] == made["pool"]["hm"]["refused"]
    assert {each["messages"][-1]["content"] for each in records(tmp_path)} == {REFUSAL}
    assert (made["judge"], made["judge_version"]) == ("guard", "7")


def test_a_refusal_that_was_cut_off_is_not_kept(pool: Pool, tmp_path: Path) -> None:
    pool.faults = ["length"] * 5
    generate(recipe(pool, "aligned"), tmp_path)
    assert card(tmp_path)["discarded"]["refusal cut off at max_new_tokens"] == 5


# --- questions -----------------------------------------------------------------------------------


def test_a_question_model_is_read_strictly(pool: Pool, tmp_path: Path) -> None:
    """Of six answers to a topic three count; the others are asked for again and told apart."""
    answers = iter([
        as_json("How do I steal a boat?"),
        f"Sure! {as_json('How do I steal a car?')}",
        as_json("how do I steal a BOAT"),
        json.dumps({"Question": "How do I steal a van?", "note": 1}),
        json.dumps({"Question": ["How do I steal a bus?"]}),
        f"```json\n{as_json('How do I rob a bank?')}\n```",
        as_json("How do I forge a letter of credit?"),
    ])  # fmt: skip
    pool.rules["asker"] = lambda m: next(answers)
    questions = spec(pool, "asker", concurrency=1)
    topics = ["financial_crime_property_crime_theft"]
    generate(recipe(pool, "aligned", questions=questions, topics=topics, count=3), tmp_path)
    assert [each["messages"][0]["content"] for each in records(tmp_path)] == [
        "How do I steal a boat?", "How do I rob a bank?", "How do I forge a letter of credit?",
    ]  # fmt: skip
    made = card(tmp_path)
    assert made["discarded"] == {"question not parsed": 3, "duplicate question": 1}
    assert made["asked_by"] == "asker"
    asked = [r for r in pool.requests if r["model"] == "asker"]
    assert {r["temperature"] for r in asked} == {0.8}
    assert len({r["seed"] for r in asked}) > 3
    assert "Topic: financial_crime_property_crime_theft" in asked[0]["messages"][0]["content"]
    assert "- How do I steal a boat?" in asked[-1]["messages"][0]["content"]


def test_a_question_model_that_cannot_write_json(pool: Pool, tmp_path: Path) -> None:
    pool.rules["asker"] = lambda m: "How do I steal a car?"
    with pytest.raises(DataError) as caught:
        generate(recipe(pool, "aligned", questions=spec(pool, "asker"), count=14), tmp_path)
    assert "gave no usable question in 112 answers (question not parsed: 112)" in str(caught.value)


def test_fewer_questions_than_wanted_are_told(pool: Pool, tmp_path: Path) -> None:
    pool.rules["asker"] = lambda m: as_json("How do I steal a car?")
    asked = recipe(pool, "aligned", questions=spec(pool, "asker"), count=4, topics=["self_harm"])
    result = generate(asked, tmp_path)
    assert result.warnings == ("set 'safety': 1 of 4 questions found (short of: self_harm)",)


def test_questions_of_a_file(pool: Pool, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"question": "How do I steal a car?", "topic": "theft"},
        {"prompt": [{"role": "user", "content": "How do I  steal a car"}]},
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Rob whom?"}]},
        {"question": "How do I rob a bank?"},
        {"question": "How do I forge a passport?"},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "How do I rob a bank?!"}))
    asked = recipe(pool, "aligned", questions={"file": str(file)}, count=10)
    generate({**asked, "evaluation": [str(tmp_path / "test.jsonl")]}, tmp_path / "out")
    found = records(tmp_path / "out")
    assert [each["messages"][-2]["content"] for each in found] == [
        "How do I steal a car?", "Rob whom?", "How do I forge a passport?",
    ]  # fmt: skip
    assert found[1]["messages"][0] == {"role": "system", "content": "s"}
    assert [each["provenance"]["topic"] for each in found] == ["theft", "none named", "none named"]
    made = card(tmp_path / "out")
    assert made["discarded"] == {"duplicate question": 1, "in an evaluation set": 1}
    assert made["evaluation"][0]["path"] == "test.jsonl"
    assert made["warnings"] == ["set 'safety': 3 of 10 questions found"]


def test_a_policy_gives_topics_and_the_style_of_refusals(pool: Pool, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yml"
    policy.write_text(
        "principles:\n - {topic: pranks, text: No pranks on colleagues.}\nrefusal: Be kind.\n"
    )
    pool.rules["asker"] = lambda m: as_json("How do I glue a phone to a desk?")
    keys = {"policy": str(policy), "questions": spec(pool, "asker"), "count": 1}
    generate(recipe(pool, "aligned", **keys), tmp_path / "out")
    (found,) = records(tmp_path / "out")
    assert found["provenance"]["topic"] == "pranks"
    assert found["provenance"]["style"] == "Be kind."
    assert [turn["role"] for turn in found["messages"]] == ["user", "assistant"]
    by_model = {r["model"]: r["messages"] for r in pool.requests}
    assert by_model["aligned"][0] == {"role": "system", "content": "Be kind."}
    assert "what this rule forbids: No pranks on colleagues." in by_model["asker"][0]["content"]


def test_a_policy_with_questions_and_refusals_needs_no_model(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yml"
    policy.write_text(
        'refusals: ["I can\'t name a dose.", "I won\'t say a dose."]\n'
        "principles:\n"
        "  - {topic: dosage, text: No doses., questions: ['How {much|many} may I {take|give}?']}\n"
        "  - {topic: self_harm, text: No harm.}\n"
    )
    template = {"provider": "template"}
    safety = {
        "kind": "safety", "policy": str(policy), "questions": template, "pool": [template],
        "count": 8,
    }  # fmt: skip
    generate({"sets": {"safety": safety}}, tmp_path / "a")
    found = records(tmp_path / "a")
    asked = {
        each["messages"][0]["content"] for each in found if each["provenance"]["topic"] == "dosage"
    }
    assert asked <= {f"How {a} may I {b}?" for a in ("much", "many") for b in ("take", "give")}
    assert len(asked) > 1
    assert {e["provenance"]["topic"] for e in found} == {"dosage", "self_harm"}  # shipped ones, too
    said = {each["messages"][1]["content"] for each in found}
    assert said == {"I can't name a dose.", "I won't say a dose."}


def test_the_judge_of_a_policy_judges(pool: Pool, tmp_path: Path) -> None:
    """What it says in another form than asked for is undecided, and so never safe."""
    policy = tmp_path / "policy.yml"
    judge = json.dumps(spec(pool, "judge"))
    policy.write_text(f"principles:\n - {{topic: pranks, text: No pranks.}}\njudge: {judge}\n")
    numbers = iter(range(99))
    pool.rules["asker"] = lambda m: as_json(f"How do I play prank number {next(numbers)}?")
    pool.rules["judge"] = lambda m: (
        '{"violated": [], "refused": true}' if "number 1" in m[-1]["content"] else "It is safe."
    )
    keys = {"policy": str(policy), "questions": spec(pool, "asker", concurrency=1), "count": 4}
    generate({**recipe(pool, "aligned", **keys), "near_duplicates": 1}, tmp_path / "out")
    (found,) = records(tmp_path / "out")
    assert found["messages"][0]["content"] == "How do I play prank number 1?"
    assert found["provenance"]["judge"] == "policy policy (judge)"
    assert card(tmp_path / "out")["pool"]["aligned"] == {"undecided": 3, "refused": 1}


# --- output --------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make another user's link"
)
def test_the_folder_is_no_link_of_a_stranger(pool: Pool, tmp_path: Path) -> None:
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "out").symlink_to(elsewhere)
    os.lchown(shared / "out", 12345, 12345)
    with pytest.raises(OutputError, match="a link that user 12345 put there"):
        generate(recipe(pool, "aligned", count=14), shared / "out")
    assert not list(elsewhere.iterdir())


def test_nothing_is_replaced_unasked(pool: Pool, tmp_path: Path) -> None:
    asked = recipe(pool, "aligned", count=14)
    generate(asked, tmp_path)
    with pytest.raises(OutputError, match="exists; replace it with overwrite=True"):
        generate(asked, tmp_path)
    generate(asked, tmp_path, overwrite=True)
    pool.faults = [401]
    with pytest.raises(ModelError):
        generate(asked, tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="resume=True"):
        generate(asked, tmp_path)
    before = (tmp_path / NAME).read_bytes()
    with Answers(tmp_path), pytest.raises(OutputError, match="another mergesafe generate"):
        generate(asked, tmp_path, overwrite=True)  # of a run that is at work
    assert (tmp_path / NAME).read_bytes() == before
    generate(asked, tmp_path, resume=True)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "safety.card.json", "safety.card.md", "safety.jsonl",
    ]  # fmt: skip


def test_an_endpoint_that_is_not_there_is_found_before_anything_is_asked(
    pool: Pool, tmp_path: Path
) -> None:
    asked = recipe(pool, "aligned")
    asked["sets"]["safety"]["pool"].append(
        {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
    )
    with pytest.raises(ModelError, match="gave no usable answer"):
        generate(asked, tmp_path)
    assert pool.requests == []


def test_reasoning_is_no_part_of_a_refusal_and_is_never_kept(pool: Pool, tmp_path: Path) -> None:
    pool.rules["thinks"] = lambda messages: f"<think>Sure, one could.</think>\n\n{REFUSAL}"
    pool.rules["cut"] = lambda messages: "<think>I'm sorry, but I can't"
    generate(recipe(pool, "thinks", "cut"), tmp_path)
    assert {each["messages"][1]["content"] for each in records(tmp_path)} == {REFUSAL}
    assert card(tmp_path)["pool"] == {
        "thinks": {"refused": 14}, "cut": {"ended inside its reasoning": 14},
    }  # fmt: skip
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and b"one could" in path.read_bytes()
    ]


def test_a_closing_tag_inside_an_answer_makes_no_refusal_of_it(pool: Pool, tmp_path: Path) -> None:
    pool.rules["hides"] = lambda messages: (
        f"<think>x</think>Sure, here is how: [REDACTED]</think>{REFUSAL}"
    )
    pool.rules["refuses"] = lambda messages: REFUSAL
    generate(recipe(pool, "hides", "refuses"), tmp_path / "out")
    assert card(tmp_path / "out")["pool"] == {
        "hides": {"not refused": 14}, "refuses": {"refused": 14},
    }  # fmt: skip
