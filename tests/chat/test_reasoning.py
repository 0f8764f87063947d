"""Reasoning and answer, taken apart."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from mergesafe.chat.endpoint_answer import read_answer
from mergesafe.chat.reasoning import Answer, ReasonedResponse, markers, part, reasoned, with_opening


@pytest.mark.parametrize(
    ("response", "parted"),
    [
        ("Four.", ReasonedResponse("", "Four.")),
        ("<think>Two and two.</think>Four.", ReasonedResponse("Two and two.", "Four.")),
        ("<think>\n\n</think>\n\nFour.", ReasonedResponse("", "Four.")),
        ("Two and two.\n</think>\n\nFour.", ReasonedResponse("Two and two.", "Four.")),
        ("<thinking>a</thinking>\n<thinking>b</thinking>\nc", ReasonedResponse("a\n\nb", "c")),
        ("<reasoning>a</reasoning>b", ReasonedResponse("a", "b")),
        ("[THINK]a[/THINK]b", ReasonedResponse("a", "b")),
        ("  <THINK>a</THINK>b", ReasonedResponse("a", "b")),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
            "<|return|>",
            ReasonedResponse("a", "b"),
        ),
        (
            "<|start|>assistant<|channel|>commentary<|message|>a<|end|><|start|>assistant"
            "<|channel|>final <|constrain|>json<|message|>b",
            ReasonedResponse("a", "b"),
        ),
        ("analysisWe need this.assistantfinalFour.", ReasonedResponse("We need this.", "Four.")),
        # No answer was reached.
        ("<think>Two and", ReasonedResponse("Two and", "", complete=False)),
        ("<think>Two and two.</think>", ReasonedResponse("Two and two.", "", complete=False)),
        ("<think>a</think><think>b", ReasonedResponse("a\n\nb", "", complete=False)),
        ("<|channel|>analysis<|message|>a", ReasonedResponse("a", "", complete=False)),
        ("<|channel|>analysis", ReasonedResponse("", "", complete=False)),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>",
            ReasonedResponse("a", "", complete=False),
        ),
        # Tags that belong to the answer.
        (
            "Write <think> before </think> and go on.",
            ReasonedResponse("", "Write <think> before </think> and go on."),
        ),
        ("Use `</think>` to close it.", ReasonedResponse("", "Use `</think>` to close it.")),
        (
            "analysis of the data shows a rise",
            ReasonedResponse("", "analysis of the data shows a rise"),
        ),
        (
            "analysis of the request: the assistant finally gave up. I can't help.",
            ReasonedResponse(
                "", "analysis of the request: the assistant finally gave up. I can't help."
            ),
        ),
        (
            "analysis: an assistantfinally does",
            ReasonedResponse("", "analysis: an assistantfinally does"),
        ),
        (
            "Kimi writes ◁think▷, then ◁/think▷.",
            ReasonedResponse("", "Kimi writes ◁think▷, then ◁/think▷."),
        ),
        ("<think>a</think>b</think>c", ReasonedResponse("a", "b</think>c")),
        ("", ReasonedResponse("", "")),
    ],
)
def test_parts(response: str, parted: ReasonedResponse) -> None:
    assert part(response) == parted
    assert part(part(response).answer).answer == parted.answer


def test_an_answer_is_parted_once() -> None:
    answer = part("<think>a</think>b</think>c").answer
    assert isinstance(answer, Answer)
    assert part(answer) == ReasonedResponse("", "b</think>c")
    assert part(str(answer)) == ReasonedResponse("b", "c")


@pytest.mark.parametrize("prompt", ["<|user|>2 + 2?<|assistant|>", "<think>\n\n</think>\n\n"])
def test_without_reasoning_opened_by_the_template_a_closing_tag_hides_nothing(prompt: str) -> None:
    said = with_opening("Four, to be clear.</think>Five.", prompt, finished=True)
    assert part(said) == ReasonedResponse("", "Four, to be clear.</think>Five.")
    for opened in (
        "<think>a</think>b",
        "analysisA.assistantfinalB.</think>",
        "a `</think>` b",
        "c",
    ):
        assert with_opening(opened, prompt, finished=True) == opened


@pytest.mark.parametrize(
    ("start", "unit"),
    [
        ("", "`</think>`"),
        ("", "```</think>"),
        ("", "<think></think>"),
        ("<|channel|>", "a"),
        ("<|channel|>", " "),
        ("", "<|channel|>"),
        ("", "<|channel|>a"),
        ("", "<|channel|>a<|message|>b"),
        ("<|channel|>", "a<|constrain|>"),
        ("analysis ", "assistant "),
        ("analysis ", "assistantfinal"),
        ("", " "),
        ("", "\n\t"),
        ("", "</think>"),
        ("<think>", "</thin"),
        ("<think>", "<"),
        ("", "[THINK]"),
        ("", "◁think▷◁/think▷"),
    ],
)
def test_hostile_text_is_parted_in_linear_time(start: str, unit: str) -> None:
    text = start + unit * (100_000 // len(unit)) + "x"
    begin = time.perf_counter()
    part(text)
    with_opening(text, text, finished=False)
    assert time.perf_counter() - begin < 1


def test_a_tag_that_the_template_opened_is_put_back() -> None:
    prompt = "<|user|>2 + 2?<|assistant|><think>\n"
    cut = with_opening("Two and", prompt, finished=False)
    assert part(cut) == ReasonedResponse("Two and", "", complete=False)
    whole = with_opening("Two and two.</think>Four.", prompt, finished=True)
    assert part(whole) == ReasonedResponse("Two and two.", "Four.")
    # Ended by itself and closed nothing: it answered without reasoning.
    assert with_opening("Four.", prompt, finished=True) == "Four."
    assert with_opening("Two and", "<think>\n\n</think>\n\n", finished=False) == "Two and"


@pytest.mark.parametrize("reached", [True, False])
def test_both_parts_in_one_text(reached: bool) -> None:
    answer = "b" if reached else ""
    assert part(reasoned("a", answer, reached=reached)) == ReasonedResponse(
        "a", answer, complete=reached
    )
    assert reasoned(" ", "b", reached=True) == "b"


class Vocabulary:
    def __init__(self, *tokens: str):
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}


def test_control_tokens_are_kept_where_they_part_reasoning() -> None:
    assert markers(Vocabulary("[THINK]", "[/THINK]", "a")) == ("[THINK]", "[/THINK]")
    # "<|end|>" ends the turns of other models.
    assert markers(Vocabulary("<|end|>", "a")) == ()
    assert "<|channel|>" in markers(Vocabulary("<|channel|>", "<|message|>", "<|end|>"))


def completion(reason: str, **message: Any) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_that_a_server_keeps_apart(field: str) -> None:
    whole = read_answer(completion("stop", content="Four.", **{field: "Two and two."}))
    assert part(whole.text) == ReasonedResponse("Two and two.", "Four.")
    # Cut off before the answer: servers send no content then.
    cut = read_answer(completion("length", content=None, **{field: "Two and"}))
    assert part(cut.text) == ReasonedResponse("Two and", "", complete=False)
    assert not cut.finished
