"""Endpoints: the protocol, and everything that goes wrong on the way."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
from endpoint import Endpoint, serve

from mergesafe.chat import openai as module
from mergesafe.chat.conversation import Response, Sampling, question
from mergesafe.chat.openai import OpenAIModel
from mergesafe.errors import ModelError

pytest.importorskip("openai")
GREEDY = Sampling(max_new_tokens=7)


@pytest.fixture
def end() -> Iterator[Endpoint]:
    with serve(Endpoint(lambda messages: f"you said {messages[-1]['content']}")) as served:
        yield served


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)


def model(end: Endpoint, **options: object) -> OpenAIModel:
    return OpenAIModel("m", end.url, **{"timeout": 10, **options})  # type: ignore[arg-type]


def test_a_conversation_and_its_sampling_are_sent(end: Endpoint) -> None:
    asked = question("hello", "be brief")
    sampling = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3)
    assert model(end).respond([asked, asked], sampling) == [Response("you said hello")] * 2
    first, second = sorted(end.requests, key=lambda request: request["seed"])
    assert first == {
        "model": "m",
        "messages": asked,
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
    }
    assert second == {**first, "seed": 4}  # else all answers to one prompt would be the same


def test_answers_keep_their_order_whatever_order_they_come_in(end: Endpoint) -> None:
    def slow_first(messages: list[dict[str, str]]) -> str:
        time.sleep(0.2 if messages[-1]["content"] == "0" else 0)
        return messages[-1]["content"]

    end.answer = slow_first
    said = model(end).respond([question(str(i)) for i in range(6)], GREEDY)
    assert [each.text for each in said] == list("012345")


def test_no_more_requests_at_a_time_than_allowed(end: Endpoint) -> None:
    end.delay = 0.02
    model(end, concurrency=3).respond([question(str(i)) for i in range(12)], GREEDY)
    assert end.most_at_once <= 3
    assert len(end.requests) == 12


def test_requests_are_spaced_to_keep_a_rate(end: Endpoint) -> None:
    paced = model(end, requests_per_minute=600)
    paced.respond([question(str(i)) for i in range(2)], GREEDY)
    paced.respond([question(str(i)) for i in range(2)], GREEDY)
    assert max(end.begun) - min(end.begun) >= 0.25  # three gaps of 0.1 s, less what sending varies


@pytest.mark.parametrize(
    "fault",
    [429, 500, 503, "hang", "malformed", "html", "truncated", "chunks", "empty", "no text",
     "unfinished"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(end: Endpoint, fault: object) -> None:
    end.faults = [fault, fault]
    said = model(end, timeout=0.5).respond([question("a")], GREEDY)
    assert said == [Response("you said a")]
    assert len(end.requests) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (429, "status 429 (sorry)"),
        (500, "status 500 (sorry)"),
        ("hang", "did not answer within 0.3 s"),
        ("malformed", "not valid JSON"),
        ("html", "not of this protocol"),
        ("truncated", "connection failed"),
        ("chunks", "connection failed"),
        ("empty", "held no message"),
        ("no text", "held no text"),
        ((200, {}, {"choices": [{"message": "text"}]}), "held no message"),
        ("unfinished", "cut off"),
    ],
)
def test_what_does_not_pass_is_told(end: Endpoint, fault: object, words: str) -> None:
    end.faults = [fault] * 3
    with pytest.raises(ModelError) as caught:
        model(end, retries=2, timeout=0.3).respond([question("a")], GREEDY)
    assert words in str(caught.value)
    assert "in 3 tries" in str(caught.value)
    assert end.url in str(caught.value)
    assert len(end.requests) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (401, "refuses the key"),
        (403, "refuses the key"),
        (404, "serves a model 'm'"),
        (400, "does not take the request"),
        ((429, {}, {"error": {"message": "pay", "code": "insufficient_quota"}}), "no quota left"),
    ],
)
def test_what_cannot_pass_is_told_at_once(end: Endpoint, fault: object, words: str) -> None:
    end.faults = [fault] * 9
    with pytest.raises(ModelError, match=words):
        model(end).respond([question("a")], GREEDY)
    assert len(end.requests) == 1


def test_retry_after_is_honoured(end: Endpoint) -> None:
    end.faults = [(429, {"Retry-After": "0.4"})]
    model(end).respond([question("a")], GREEDY)
    assert end.begun[1] - end.begun[0] >= 0.4


def test_one_failure_stops_the_others(end: Endpoint) -> None:
    end.faults = [401]
    end.delay = 0.05
    with pytest.raises(ModelError, match="refuses the key"):
        model(end, concurrency=1).respond([question(str(i)) for i in range(50)], GREEDY)
    assert len(end.requests) < 5


def test_an_answer_that_was_cut_off_says_so(end: Endpoint) -> None:
    end.faults = ["length"]
    assert model(end).respond([question("a")], GREEDY) == [Response("you said a", finished=False)]


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    absent = OpenAIModel("m", url, retries=1)
    with pytest.raises(ModelError, match="connection failed"):
        absent.respond([question("a")], GREEDY)
    with pytest.raises(ModelError, match=f"{url} gave no usable answer .* check .base_url"):
        absent.check()


def test_check_asks_for_models_and_minds_not_if_there_is_no_list(end: Endpoint) -> None:
    model(end).check()
    end.models = False
    model(end).check()
    assert end.requests == []


def test_the_key_comes_from_the_environment(end: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = model(end, api_key_env="MY_KEY")
    with pytest.raises(ModelError, match="MY_KEY"):
        keyed.respond([question("a")], GREEDY)
    monkeypatch.setenv("MY_KEY", "secret")
    keyed.respond([question("a")], GREEDY)
    assert end.keys == ["Bearer secret"]
    end.faults = [401]
    with pytest.raises(ModelError) as caught:
        keyed.respond([question("a")], GREEDY)
    assert "secret" not in str(caught.value)


def test_inside_a_running_loop(end: Endpoint) -> None:
    async def notebook() -> list[Response]:
        return model(end).respond([question("a")], GREEDY)

    assert asyncio.run(notebook()) == [Response("you said a")]


def test_name_and_identity_hold_no_secret() -> None:
    first = OpenAIModel("m", "https://user:word@host:8000/v1?token=abc")
    assert first.name == "m at host:8000"
    assert first.identity == OpenAIModel("m", "https://user:other@host:8000/v1?token=xyz").identity
    assert first.identity != OpenAIModel("n", first.base_url).identity
