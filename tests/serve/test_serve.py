"""The endpoint: answers, streams, batches, and what it bears from those who attack it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import in_process
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from chatty import save_chat_model

from mergesafe.chat.conversation import Conversation, Response, Sampling, last_question, question
from mergesafe.chat.hf import HfModel
from mergesafe.chat.streaming import TextStream, rest
from mergesafe.errors import ArgumentError, ModelError
from mergesafe.serve import app as served
from mergesafe.serve.api import is_loopback, serve
from mergesafe.serve.app import Limits, make_app
from mergesafe.serve.protocol import RequestError, read_request, stopped

Client = TestClient[web.Request, web.Application]
PATH = "/v1/chat/completions"


class Echo:
    """Says what it was asked, when it may."""

    name = "echo"
    identity = "1"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.samplings: list[Sampling] = []
        self.may = threading.Event()
        self.may.set()

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        asked = [last_question(each) for each in conversations]
        self.batches.append(asked)
        self.samplings.append(sampling)
        assert self.may.wait(20)
        if "fail" in asked:
            raise ModelError("it is ill")
        if "crash" in asked:
            raise RuntimeError("boom")
        return [Response(f"You said {text}.", text != "long") for text in asked]


def body(text: str = "Hi", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def with_client(
    model: Any,
    told: Callable[[Client], Awaitable[None]],
    limits: Limits | None = None,
    token: str | None = None,
) -> None:
    """Run ``told`` with a client of an application that serves ``model`` as "m"."""

    async def run() -> None:
        app = make_app(model, "m", limits or Limits(), token)
        async with TestClient(TestServer(app)) as client:
            await told(client)

    asyncio.run(run())


async def events(answer: Any) -> list[Any]:
    lines = (await answer.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def streamed(found: list[Any]) -> str:
    return "".join(each["choices"][0]["delta"].get("content", "") for each in found)


def test_an_answer() -> None:
    model = Echo()

    async def told(client: Client) -> None:
        answer = await client.post(PATH, json=body("Hi", model="m", max_tokens=5, seed=3))
        found = await answer.json()
        assert (answer.status, found["object"], found["model"]) == (200, "chat.completion", "m")
        (choice,) = found["choices"]
        assert choice["message"]["content"] == "You said Hi."
        assert choice["finish_reason"] == "stop"
        found = await (await client.post(PATH, json=body("long"))).json()
        assert found["choices"][0]["finish_reason"] == "length"
        found = await (await client.post(PATH, json=body("Hi", stop=["zz", " said"]))).json()
        assert found["choices"][0]["message"]["content"] == "You"
        listed = await (await client.get("/v1/models")).json()
        assert [each["id"] for each in listed["data"]] == ["m"]
        assert (await client.get("/health")).status == 200

    with_client(model, told)
    assert model.samplings[0] == Sampling(5, 0.0, 1.0, 3)
    assert model.samplings[1].max_new_tokens == Limits().tokens


def test_a_stream_of_a_model_that_answers_at_once() -> None:
    async def told(client: Client) -> None:
        answer = await client.post(PATH, json=body("Hi", stream=True))
        assert answer.headers["Content-Type"] == "text/event-stream"
        found = await events(answer)
        assert streamed(found) == "You said Hi."
        assert found[0]["choices"][0]["delta"]["role"] == "assistant"
        assert found[-1]["choices"][0]["finish_reason"] == "stop"
        assert len({each["id"] for each in found}) == 1

    with_client(Echo(), told)


def test_a_model_that_streams_its_tokens(tmp_path: Path) -> None:
    model = HfModel(str(save_chat_model(tmp_path / "base")))
    (whole,) = model.respond([question("Hi")], Sampling(12))
    pieces: list[str] = []
    (again,) = model.respond([question("Hi")], Sampling(12), lambda row, text: pieces.append(text))
    assert again == whole
    assert len(pieces) > 1
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(pieces))
    stop = whole.text[1:3]

    async def told(client: Client) -> None:
        found = await events(await client.post(PATH, json=body(max_tokens=12, stream=True)))
        assert streamed(found) == whole.text
        assert len(found) >= 3  # pieces that come faster than they are sent are one
        asked = body(max_tokens=12, stream=True, stop=stop)
        found = await events(await client.post(PATH, json=asked))
        assert streamed(found) == stopped(whole.text, (stop,))

    with_client(model, told)


def test_what_is_streamed_is_the_answer_whatever_comes_in_halves() -> None:
    """Half a character is not told, nor spaces that may be the last, nor what follows the end."""

    class Tokens:
        def __init__(self, *values: int) -> None:
            self.values = values

        def __len__(self) -> int:
            return len(self.values)

        def tolist(self) -> list[int]:
            return list(self.values)

    texts = {1: " A", 2: "\ufffd", 3: "b ", 4: "c"}
    told: list[tuple[int, str]] = []
    stream = TextStream(
        lambda rows: ["".join(texts[t] for t in row) for row in rows], {0},
        lambda row, text: told.append((row, text)),
    )  # fmt: skip
    stream.put(Tokens(9, 9))  # the prompts
    for tokens in ((1, 1), (2, 3), (4, 0), (4, 4)):
        stream.put(Tokens(*tokens))
    stream.end()
    assert told == [(0, "A"), (1, "A"), (1, "Ab"), (0, "A\ufffdc"), (0, "A\ufffdcc")]
    assert rest("<think>Ab. c", "Ab") == ". c"
    assert rest("Ab", "") == "Ab"


def test_requests_that_come_together_are_one_batch() -> None:
    model = Echo()

    async def told(client: Client) -> None:
        model.may.clear()
        first = asyncio.ensure_future(client.post(PATH, json=body("0")))
        while not model.batches:
            await asyncio.sleep(0.01)
        asked = [
            body("1"), body("2"), body("3", max_tokens=7), body("4", seed=9),
            body("5", temperature=1), body("6", temperature=1),
            body("7", temperature=1, seed=1), body("8"),
        ]  # fmt: skip
        later = []
        for each in asked:  # one after another, so that their order is known
            later.append(asyncio.ensure_future(client.post(PATH, json=each)))
            await asyncio.sleep(0.02)
        model.may.set()
        answers = await asyncio.gather(first, *later)
        texts = [(await each.json())["choices"][0]["message"]["content"] for each in answers]
        assert texts == [f"You said {number}." for number in range(9)]

    with_client(model, told, Limits(batch=3))
    # Greedy ones together, three at a time; a drawn one with its own seed alone.
    assert model.batches == [["0"], ["1", "2", "4"], ["3"], ["5", "6"], ["7"], ["8"]]


def test_a_full_queue_and_one_who_left() -> None:
    model = Echo()

    async def told(client: Client) -> None:
        model.may.clear()
        first = asyncio.ensure_future(client.post(PATH, json=body("0")))
        while not model.batches:
            await asyncio.sleep(0.01)
        gone = asyncio.ensure_future(client.post(PATH, json=body("gone")))
        waits = asyncio.ensure_future(client.post(PATH, json=body("1")))
        await asyncio.sleep(0.1)
        answer = await client.post(PATH, json=body("2"))
        assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
        assert "2 requests are waiting" in (await answer.json())["error"]["message"]
        gone.cancel()
        await asyncio.sleep(0.1)
        model.may.set()
        assert (await first).status == (await waits).status == 200

    with_client(model, told, Limits(batch=1, queue=2))
    assert model.batches == [["0"], ["1"]]


def test_one_who_left_the_server_itself() -> None:
    """The server of the tests cancels what its clients leave; so must the one that is served."""
    model = Echo()
    model.may.clear()
    statuses: list[int] = []

    async def ask(url: str) -> None:
        async with ClientSession() as session:
            first = asyncio.ensure_future(session.post(url, json=body("0")))
            while not model.batches:
                await asyncio.sleep(0.01)
            gone = asyncio.ensure_future(session.post(url, json=body("gone")))
            await asyncio.sleep(0.5)
            gone.cancel()
            waits = asyncio.ensure_future(session.post(url, json=body("1")))
            await asyncio.sleep(0.5)
            model.may.set()
            statuses.extend([(await first).status, (await waits).status])

    def client(address: str) -> None:
        try:
            asyncio.run(ask(f"{address}/chat/completions"))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def started(address: str) -> None:
        threading.Thread(target=client, args=(address,), daemon=True).start()

    serve(model, "m", port=0, limits=Limits(batch=1), on_start=started)
    assert statuses == [200, 200]
    assert model.batches == [["0"], ["1"]]


def test_a_model_that_fails_answers_the_next() -> None:
    async def told(client: Client) -> None:
        answer = await client.post(PATH, json=body("fail"))
        assert answer.status == 500
        assert "the model cannot answer: it is ill" in (await answer.json())["error"]["message"]
        answer = await client.post(PATH, json=body("crash", stream=True))
        assert answer.status == 500
        assert "boom" not in await answer.text()
        assert (await client.post(PATH, json=body())).status == 200

    with_client(Echo(), told)


def test_one_that_fails_does_not_fail_its_batch() -> None:
    model = Echo()

    async def told(client: Client) -> None:
        model.may.clear()
        first = asyncio.ensure_future(client.post(PATH, json=body("0")))
        while not model.batches:
            await asyncio.sleep(0.01)
        later = []
        for each in ("1", "fail", "crash", "2"):
            later.append(asyncio.ensure_future(client.post(PATH, json=body(each))))
            await asyncio.sleep(0.02)
        model.may.set()
        answers = await asyncio.gather(first, *later)
        assert [each.status for each in answers] == [200, 200, 500, 500, 200]

    with_client(model, told)
    assert any(len(each) > 1 and "fail" in each for each in model.batches)


def test_a_conversation_longer_than_the_context(tmp_path: Path) -> None:
    async def told(client: Client) -> None:
        for stream in (False, True):
            answer = await client.post(PATH, json=body("a" * 600, max_tokens=3, stream=stream))
            assert answer.status == 400
            assert "603 tokens; expected fewer than 512" in await answer.text()
        assert (await client.post(PATH, json=body("a" * 100, max_tokens=3))).status == 200

    with_client(HfModel(str(save_chat_model(tmp_path / "base"))), told)


def test_a_stream_that_breaks_off_says_so(tmp_path: Path) -> None:
    class Breaking(HfModel):
        def respond(self, *arguments: Any) -> list[Response]:
            arguments[2](0, "Half of")
            raise ModelError("it is ill")

    async def told(client: Client) -> None:
        answer = await client.post(PATH, json=body(stream=True))
        lines = (await answer.text()).strip().split("\n\n")
        assert json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"] == {
            "content": "Half of"
        }
        last = json.loads(lines[-1].removeprefix("data: "))
        assert "the model cannot answer: it is ill" in last["error"]["message"]

    with_client(Breaking(str(save_chat_model(tmp_path / "base"))), told)


def test_what_nobody_waits_for_is_not_finished(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    class Endless(HfModel):
        def respond(self, *arguments: Any) -> list[Response]:
            if last_question(arguments[0][0]) == "Hi":
                return [Response("Hello")]
            begun.set()
            try:
                for number in range(2000):
                    arguments[2](0, "word " * number)
                    time.sleep(0.01)
            finally:
                ended.set()
            raise AssertionError

    async def told(client: Client) -> None:
        for stream in (True, False):
            begun.clear()
            ended.clear()
            asked = asyncio.ensure_future(client.post(PATH, json=body("Much", stream=stream)))
            while not begun.is_set():
                await asyncio.sleep(0.01)
            if stream:
                (await asked).close()
            asked.cancel()
            answer = await asyncio.wait_for(client.post(PATH, json=body("Hi")), 15)
            assert answer.status == 200
            assert ended.is_set()

    with_client(Endless(str(save_chat_model(tmp_path / "base"))), told)


def test_tokens() -> None:
    async def told(client: Client) -> None:
        for header in (None, "Bearer no", "secret", "Basic secret", "Bearer "):
            headers = {} if header is None else {"Authorization": header}
            answer = await client.post(PATH, json=body(), headers=headers)
            assert (answer.status, (await answer.json())["error"]["type"]) == (
                401, "invalid_request_error",
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer \xff\r\n\r\n")
        assert b" 401 " in await reader.readline()
        writer.close()
        good = {"Authorization": "Bearer secret"}
        assert (await client.post(PATH, json=body(), headers=good)).status == 200
        assert (await client.get("/v1/models")).status == 401
        assert (await client.get("/health")).status == 200

    with_client(Echo(), told, token="secret")


def test_bodies_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "BODY_SECONDS", 0.2)

    async def told(client: Client) -> None:
        for data, status in ((b"{", 400), (b"[]", 400), (b"\xff", 400), (b"x" * 5000, 413)):
            answer = await client.post(PATH, data=data)
            assert (answer.status, set(await answer.json())) == (status, {"error"})
        headers = {"Content-Encoding": "gzip", "Connection": "close"}
        answer = await client.post(PATH, data=b"no", headers=headers)
        assert (answer.status, "cannot be read" in await answer.text()) == (400, True)
        assert (await client.get("/nowhere")).status == 404
        assert (await client.get(PATH)).status == 405

        async def slow() -> Any:
            yield b"{"
            await asyncio.sleep(20)

        started = time.monotonic()
        slowly = asyncio.ensure_future(client.post(PATH, data=slow()))
        assert (await client.post(PATH, json=body())).status == 200  # others are served meanwhile
        answer = await slowly
        assert answer.status == 408
        assert time.monotonic() - started < 10

    with_client(Echo(), told, Limits(body=4096))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": None}, "'messages' must be a list"),
        ({"messages": [{"role": "tool", "content": "a"}]}, r"messages\[0\] has no role of system"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, r"messages\[0\] has no role"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
        ({"stream": "yes"}, "'stream' must be true or false"),
        ({"messages": [{"role": "user", "content": 1}]}, r"content of messages\[0\] must be text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "must be text",
        ),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "last message must be the user's"),
        ({"model": "other"}, "'other' is not served; 'm' is"),
        ({"n": 2}, "one answer"),
        ({"n": True}, "one answer"),
        ({"tools": [{}]}, "'tools' is not served"),
        ({"logprobs": True}, "'logprobs' is not served"),
        ({"response_format": {"type": "json_object"}}, "only text"),
        ({"presence_penalty": 0.5}, "must be 0"),
        ({"temperature": 3}, "'temperature' must be a number from 0 to 2"),
        ({"temperature": True}, "'temperature' must be a number"),
        ({"top_p": 0}, "'top_p' must be"),
        ({"max_tokens": 0}, "'max_tokens' must be a whole number from 1"),
        ({"seed": 1.5}, "'seed' must be a whole number"),
        ({"stop": ["a"] * 5}, "'stop' must be"),
        ({"stop": [""]}, "'stop' must be"),
        ({"tempreature": 1}, "unknown parameter 'tempreature'"),
    ],
)
def test_requests_that_are_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_request({**body(), **change}, "m", 100)


def test_requests_in_all_their_forms() -> None:
    found = read_request(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": each} for each in "AB"]},
            ],
            "max_completion_tokens": None, "max_tokens": 1000, "user": "me", "n": None,
            "stop": None,
        },
        "m", 100,
    )  # fmt: skip
    assert found.conversation == question("AB", "Be brief.")
    assert (found.sampling.max_new_tokens, found.sampling.temperature) == (100, 1.0)
    assert (found.seeded, found.stop, found.stream) == (False, (), False)


def test_addresses() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    for host in ("0.0.0.0", "::", "192.168.0.3", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(ArgumentError, match="needs a token"):
            serve(Echo(), "m", host=host)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nowhere",), "nowhere: there is no such folder"),
        (("squad:nowhere.yml",), "nowhere.yml"),
        ((".", "--batch", "0"), "--batch is 0; expected 1 or more"),
        ((".", "--port", "70000"), "--port is 70000"),
        ((".", "--token-env", "NO_SUCH"), "no token in the environment's NO_SUCH"),
    ],
)
def test_what_the_command_refuses(arguments: tuple[str, ...], complaint: str) -> None:
    shown = in_process.run("serve", *arguments)
    assert shown.returncode == 2
    assert complaint in shown.stderr


def test_served_until_interrupted(tmp_path: Path) -> None:
    """By the command itself, in a process of its own."""
    import subprocess
    import sys

    base = save_chat_model(tmp_path / "base")
    process = subprocess.Popen(
        [sys.executable, "-m", "mergesafe.cli", "serve", str(base), "--name", "m", "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving m at http://127.0.0.1:")
        url = line.split()[3].rstrip(";")

        async def ask() -> Any:
            async with (
                ClientSession() as session,
                session.post(f"{url}/chat/completions", json=body(max_tokens=3)) as answer,
            ):
                return await answer.json()

        assert asyncio.run(ask())["choices"][0]["message"]["content"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
