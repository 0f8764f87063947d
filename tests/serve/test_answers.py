"""The endpoint: answers, streams and batches."""

from __future__ import annotations

import asyncio
import itertools
import signal
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from chatty import save_chat_model

from mergesafe.chat.conversation import Response, Sampling, question
from mergesafe.chat.hf import HfModel
from mergesafe.chat.streaming import TextStream, rest
from mergesafe.serve.app import Limits
from mergesafe.serve.protocol import stopped

from .client import PATH, Client, Echo, body, events, streamed, with_client


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


def test_a_stop_text_ends_the_work_of_the_model(tmp_path: Path) -> None:
    """In a batch too, where the others go on to their end."""
    worked: list[int] = []

    class Counting(HfModel):
        def respond(self, *arguments: Any) -> list[Response]:
            texts = [""] * len(arguments[0])
            for number in range(400):
                worked.append(number)
                for row in range(len(texts)):
                    texts[row] += f" w{number}"
                    arguments[2](row, texts[row].strip())
            return [Response(each.strip()) for each in texts]

    async def told(client: Client) -> None:
        for stream in (False, True):
            worked.clear()
            asked = body(stop=["never", "w5"], stream=stream)
            answer = await client.post(PATH, json=asked)
            if stream:
                found = await events(answer)
                text, reason = streamed(found), found[-1]["choices"][0]["finish_reason"]
            else:
                (choice,) = (await answer.json())["choices"]
                text, reason = choice["message"]["content"], choice["finish_reason"]
            assert (text.strip(), reason) == ("w0 w1 w2 w3 w4", "stop")
            assert max(worked) == 5
        both = [client.post(PATH, json=body(stop=stop)) for stop in ("w5", "w9")]
        worked.clear()
        texts = [
            (await each.json())["choices"][0]["message"]["content"]
            for each in await asyncio.gather(*both)
        ]
        assert [len(each.split()) for each in texts] == [5, 9]
        assert max(worked) == 9

    with_client(Counting(str(save_chat_model(tmp_path / "base"))), told)


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


def test_a_conversation_longer_than_the_context(tmp_path: Path) -> None:
    async def told(client: Client) -> None:
        for stream in (False, True):
            answer = await client.post(PATH, json=body("a" * 600, max_tokens=3, stream=stream))
            assert answer.status == 400
            assert "603 tokens; expected fewer than 512" in await answer.text()
        assert (await client.post(PATH, json=body("a" * 100, max_tokens=3))).status == 200

    with_client(HfModel(str(save_chat_model(tmp_path / "base"))), told)


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
