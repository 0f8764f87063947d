"""A model that echoes, and a client of an application that serves one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mergesafe.chat.conversation import Conversation, Response, Sampling, last_question
from mergesafe.errors import ModelError
from mergesafe.serve.app import Limits, make_app

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
