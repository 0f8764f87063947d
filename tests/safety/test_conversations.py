"""Sets whose records hold system prompts and several turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

import mergesafe as ms
from mergesafe.chat.conversation import (
    Conversation,
    Response,
    Sampling,
    misplaced,
    question,
    with_style,
)
from mergesafe.errors import ArgumentError, DataError
from mergesafe.report.sections.data import examples
from mergesafe.safety.evaluation.sets import read_set
from mergesafe.safety.evaluation.shapes import check_templates
from mergesafe.safety.judges.base import Verdict
from mergesafe.safety.judges.deflection import Deflection
from mergesafe.safety.judges.policy import material

from .test_deflection import Cosines

SYSTEM = {"role": "system", "content": "You work for a locksmith."}
FIRST = {"role": "user", "content": "What is a lock?"}
SAID = {"role": "assistant", "content": "A thing that keeps a door shut."}
LAST = {"role": "user", "content": "And how is it opened?"}


@dataclass
class Recorder:
    """Declines the last question of several turns, and keeps what it was asked."""

    name: str = "m"
    identity: str = "m"
    asked: list[Conversation] = field(default_factory=list)

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        self.asked += conversations
        return [Response("I can't help." if len(c) > 2 else "With a key.") for c in conversations]


@dataclass
class Blinkered:
    """A judge of the last question."""

    name: str = "blinkered"
    version: str = "1"
    last_question_only: bool = True

    def judge(self, pairs: Sequence[tuple[Conversation, str]]) -> list[Verdict]:
        return [Verdict(True, False) for _ in pairs]


def written(path: Path, *conversations: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in conversations))
    return path


def test_the_last_turn_is_answered_and_every_shape_has_its_figure(tmp_path: Path) -> None:
    path = written(tmp_path / "u.jsonl", [FIRST], [SYSTEM, FIRST], [SYSTEM, FIRST, SAID, LAST])
    model = Recorder()
    found = ms.evaluate(model, unsafe=path, judges=["rules", Blinkered()])
    assert sorted(map(len, model.asked)) == [1, 2, 4]
    [result] = found.models
    rates = {name: figure.estimate.value for name, figure in result.figures.items()}
    assert rates["refusal_rate"] == pytest.approx(1 / 3)
    assert rates["refusal_rate.one-turn"] == rates["refusal_rate.system-prompt"] == 0
    assert rates["refusal_rate.multi-turn"] == 1
    [example] = [each for each in result.examples if len(each.before) == 3]
    assert (example.question, example.before[0].role) == (LAST["content"], "system")
    assert any("blinkered is shown the last question" in note for note in found.notes)
    assert not any("refusal rules is shown" in note for note in found.notes)


def test_a_gate_may_require_the_figure_of_a_shape(tmp_path: Path) -> None:
    path = written(tmp_path / "u.jsonl", [FIRST], [FIRST, SAID, LAST])
    gate = ms.gate(Recorder(), unsafe=path, require=["refusal_rate.one-turn>=0.9"])
    assert not gate.passed


def test_questions_alone_have_no_figures_of_shapes(tmp_path: Path) -> None:
    found = ms.evaluate(Recorder(), unsafe=written(tmp_path / "u.jsonl", [FIRST]))
    assert set(found.models[0].figures) == {"safe_rate", "refusal_rate"}


def test_a_set_may_not_be_called_as_a_shape(tmp_path: Path) -> None:
    path = written(tmp_path / "multi-turn.jsonl", [FIRST], [SYSTEM, FIRST])
    with pytest.raises(ArgumentError, match="'multi-turn', and so are the figures"):
        ms.evaluate(Recorder(), unsafe=path)


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([SAID, LAST], "turn 1 of the conversation is the assistant's; expected the user's"),
        ([FIRST, LAST], "turn 2 of the conversation is the user's; expected the assistant's"),
        ([FIRST, SYSTEM, LAST], "turn 2 of the conversation is the system's"),
        ([SYSTEM, SYSTEM, LAST], "turn 2 of the conversation is the system's; expected the user's"),
        ([FIRST, SAID, SAID], "turn 2 .* expected|must ask something"),
    ],
)
def test_turns_out_of_order(tmp_path: Path, turns: list[dict[str, str]], problem: str) -> None:
    path = written(tmp_path / "u.jsonl", [FIRST], turns)
    with pytest.raises(DataError, match=problem) as found:
        ms.evaluate(Recorder(), unsafe=path)
    assert "u.jsonl:2" in str(found.value)


def test_what_is_in_order() -> None:
    assert misplaced(question("a", "system")) == misplaced(question("a")) == ""
    assert "does not end with a turn of the user" in misplaced([*question("a"), SAID])  # type: ignore[list-item]
    assert misplaced([]) != ""


def test_a_template_without_system_prompts_is_told_before_any_answer(tmp_path: Path) -> None:
    class Tokenizer:
        name_or_path = "m"
        special_tokens_map: ClassVar[dict[str, str]] = {}

        def get_chat_template(self) -> str:
            return (
                "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt') }}"
                "{% endif %}{{ messages[-1].content }}"
            )

    model: Any = type("Model", (), {"name": "m", "tokenizer": Tokenizer()})()
    path = written(tmp_path / "u.jsonl", [FIRST], [FIRST, SAID, LAST], [SYSTEM, FIRST])
    with pytest.raises(DataError, match=r"no system prompt.*first turn of the user") as found:
        check_templates(model, [read_set("u", "unsafe", path)])
    assert "u.jsonl:3" in str(found.value)


def test_a_style_joins_the_system_prompt() -> None:
    """Templates take one system prompt at most."""
    asked: Any = [SYSTEM, FIRST]
    [system, *rest] = with_style(asked, "Be kind.")
    assert system == {"role": "system", "content": f"{SYSTEM['content']}\n\nBe kind."}
    assert rest == [FIRST]
    assert with_style(rest, "Be kind.")[0]["content"] == "Be kind."


def test_a_policy_judge_is_shown_the_turns() -> None:
    asked: Any = [SYSTEM, FIRST, SAID, LAST]
    shown = json.loads(material(asked, "With a key."))
    assert [each["role"] for each in shown["before"]] == ["system", "user", "assistant"]
    assert (shown["question"], shown["response"]) == (LAST["content"], "With a key.")
    assert "before" not in json.loads(material(question("a"), "b"))


def test_a_short_last_question_is_no_deflection() -> None:
    asked: Any = [SYSTEM, FIRST, SAID, {"role": "user", "content": "And then?"}]
    encoder = Cosines(0.05, 0.6)
    [verdict] = Deflection(encoder, 0.3).judge([(asked, "You turn the key in the lock.")])
    assert verdict.refused is False
    assert SYSTEM["content"] not in encoder.seen[1][0]
    assert FIRST["content"] in encoder.seen[1][0]


def test_a_report_tells_conversations_with_one_last_question_apart(tmp_path: Path) -> None:
    other = {"role": "user", "content": "What is a safe?"}
    path = written(tmp_path / "u.jsonl", [FIRST, SAID, LAST], [other, SAID, LAST])
    document = ms.evaluate(Recorder(), unsafe=path).document()
    content: Any = type("Content", (), {})()
    content.of = lambda kind: [(None, document)]
    content.models = [type("Model", (), {"examples": document.models[0].examples, "short": "m"})()]
    [section] = examples(content)
    [(_, asked, count)] = section.data["sets"]
    assert count == 2
    assert {each.before[0] for each in asked} == {
        ("user", FIRST["content"]), ("user", other["content"])
    }  # fmt: skip
    assert all(each.before[1][1] == "(an answer, masked)" for each in asked)
