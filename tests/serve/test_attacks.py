"""What the endpoint bears from those who attack it, leave it, or make its model fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from chatty import save_chat_model
from yarl import URL

from mergesafe.chat.conversation import Response, last_question
from mergesafe.chat.hf import HfModel
from mergesafe.errors import ModelError
from mergesafe.serve import api as served_api
from mergesafe.serve import app as served
from mergesafe.serve.api import serve
from mergesafe.serve.app import Limits

from .client import PATH, Client, Echo, body, with_client


def run_served(ask: Callable[[str], Coroutine[Any, Any, None]], model: Any, **more: Any) -> None:
    """Serve as the command does, and end when ``ask``, which is given the address, has ended."""

    def client(address: str) -> None:
        try:
            asyncio.run(ask(address))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def started(address: str) -> None:
        threading.Thread(target=client, args=(address,), daemon=True).start()

    serve(model, "m", port=0, on_start=started, **more)


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

    async def ask(address: str) -> None:
        url = f"{address}/chat/completions"
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

    run_served(ask, model, limits=Limits(batch=1))
    assert statuses == [200, 200]
    assert model.batches == [["0"], ["1"]]


def test_headers_that_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection ends in time, however often a byte comes, and others are served meanwhile."""
    monkeypatch.setattr(served_api, "IDLE_SECONDS", 1.0)
    ends: list[bytes] = []
    statuses: list[int] = []

    async def drip(url: URL, first: bytes) -> None:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(first + b"POST / HTTP/1.1\r\nHost: m\r\nX-Slow: ")
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(b"a")
            await asyncio.wait([ended], timeout=0.1)
        with contextlib.suppress(ConnectionError):
            ends.append(ended.result())

    async def ask(address: str) -> None:
        url = URL(address)
        # The second connection has been idle after a whole request, the first never sent one.
        whole = b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n"
        slow = [asyncio.ensure_future(drip(url, first)) for first in (b"", whole)]
        async with ClientSession() as session:
            answer = await session.post(f"{address}/chat/completions", json=body())
            statuses.append(answer.status)
        await asyncio.wait_for(asyncio.gather(*slow), 60)

    run_served(ask, Echo())
    assert statuses == [200]
    assert sorted(len(each) > 0 for each in ends) == [False, True]


def test_a_hundred_at_once_and_huge_bodies_beside_them() -> None:
    model = Echo()
    statuses: Counter[int] = Counter()

    async def told(client: Client) -> None:
        model.may.clear()
        asked = [asyncio.ensure_future(client.post(PATH, json=body(str(n)))) for n in range(100)]
        asked += [asyncio.ensure_future(client.post(PATH, data=b"x" * 200_000)) for _ in range(5)]
        while sum(each.done() for each in asked) < 100 - 8 - 64 + 5:
            await asyncio.sleep(0.01)
        model.may.set()
        statuses.update([(await each).status for each in asked])
        assert (await client.post(PATH, json=body())).status == 200

    with_client(model, told, Limits(batch=8, queue=64, body=100_000))
    assert set(statuses) == {200, 429, 413}
    assert statuses[413] == 5
    assert 64 <= statuses[200] <= 72


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
