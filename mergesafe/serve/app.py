"""The web application: routes, tokens, limits, streams."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from mergesafe.chat.conversation import ChatModel, Response
from mergesafe.chat.streaming import rest
from mergesafe.errors import ArgumentError, MergesafeError
from mergesafe.serve.batcher import Batcher, FullError
from mergesafe.serve.protocol import Answering, ChatRequest, RequestError, read_request, stopped
from mergesafe.strict_json import parse_json

#: Seconds in which the body of a request must arrive, and an idle connection is kept.
BODY_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 30.0
#: Seconds after which one that found the queue full may try again.
RETRY_AFTER: Final = "5"

_LOG: Final = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Limits:
    """What one server bears.

    ``batch``: conversations at a time; ``queue``: requests that wait; ``body``: bytes of a request;
    ``tokens``: of an answer.
    """

    batch: int = 8
    queue: int = 64
    body: int = 1 << 20
    tokens: int = 512


def make_app(
    model: ChatModel, name: str, limits: Limits, token: str | None = None
) -> web.Application:
    """The application that serves ``model`` as ``name``, to all who know ``token``."""
    server = _Server(model, name, limits, token)
    app = web.Application(client_max_size=limits.body, middlewares=[server.guarded])
    app.router.add_get("/health", server.health)
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.cleanup_ctx.append(server.running)
    return app


class _Server:
    def __init__(self, model: ChatModel, name: str, limits: Limits, token: str | None) -> None:
        self.name, self.limits, self.token = name, limits, token
        self.batcher = Batcher(model, limits.batch, limits.queue)

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """Answer while the application runs."""
        self.batcher.start()
        yield
        await self.batcher.stop()

    @web.middleware
    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may ask; and every error in the protocol's form."""
        try:
            self._check_token(request)
            return await handler(request)
        except RequestError as error:
            headers = {"Retry-After": RETRY_AFTER} if error.status == 429 else None
            return web.json_response(error.body, status=error.status, headers=headers)
        except web.HTTPException as error:
            body = RequestError(error.status, error.reason or "error").body
            return web.json_response(body, status=error.status)
        except ConnectionError:  # whoever asked has gone, and nobody reads this
            return web.Response(status=400)
        except Exception:
            return web.json_response(_internal().body, status=500)

    def _check_token(self, request: web.Request) -> None:
        if self.token is None or request.path == "/health":
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        sent = given.strip().encode("utf-8", "surrogateescape")  # as aiohttp decodes headers
        known = hmac.compare_digest(sent, self.token.encode())
        if scheme.lower() != "bearer" or not known:
            raise RequestError(401, "the token is missing or wrong: Authorization: Bearer TOKEN")

    async def health(self, _: web.Request) -> web.Response:
        """Whether it is there."""
        return web.json_response({"status": "ok"})

    async def models(self, _: web.Request) -> web.Response:
        """The one model."""
        about = {"id": self.name, "object": "model", "created": 0, "owned_by": "mergesafe"}
        return web.json_response({"object": "list", "data": [about]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """An answer, whole or as a stream."""
        asked = read_request(await self._body(request), self.name, self.limits.tokens)
        answering = Answering.begin(self.name)
        if asked.stream:
            return await self._stream(request, asked, answering)
        response = await self._respond(asked, None)
        return web.json_response(answering.whole(stopped(response.text, asked.stop), response))

    async def _body(self, request: web.Request) -> Any:
        try:
            data = await asyncio.wait_for(request.read(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise RequestError(
                408, f"the body did not arrive within {BODY_SECONDS:g} seconds"
            ) from None
        except web.RequestPayloadError as error:
            why = " ".join(str(error).split())[:200]
            raise RequestError(400, f"the body cannot be read ({why})") from None
        try:
            return parse_json(data)
        except ValueError as error:
            raise RequestError(400, f"the body is {error}") from None

    async def _respond(self, asked: ChatRequest, tell: Callable[[str], None] | None) -> Response:
        try:
            return await self.batcher.respond(
                asked.conversation, asked.sampling, asked.seeded, tell, asked.stop
            )
        except FullError:
            raise RequestError(
                429, f"{self.limits.queue} requests are waiting already; try again later"
            ) from None
        except ArgumentError as error:
            raise RequestError(400, str(error), "messages") from None
        except MergesafeError as error:
            raise RequestError(500, f"the model cannot answer: {error}") from None
        except Exception:
            raise _internal() from None

    async def _stream(
        self, request: web.Request, asked: ChatRequest, answering: Answering
    ) -> web.StreamResponse:
        """Server-sent events: the text as it comes, how it ended, and that it did."""
        texts: asyncio.Queue[str] = asyncio.Queue()
        answer = asyncio.ensure_future(self._respond(asked, texts.put_nowait))
        try:
            first = await _first(texts, answer)
            stream = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
            )
            await stream.prepare(request)
            await _send(stream, answering.chunk({"role": "assistant", "content": ""}))
            told = ""
            text = first
            try:
                while text is not None:
                    told = await _tell(stream, answering, told, text, asked.stop)
                    text = await _first(texts, answer)
                response = await answer
            except RequestError as error:  # the status is sent already: an event says it
                await _send(stream, error.body)
            else:
                whole = stopped(response.text, asked.stop)
                left = rest(whole, told)
                if left:
                    await _send(stream, answering.chunk({"content": left}))
                await _send(stream, answering.last(whole, response))
                await stream.write(b"data: [DONE]\n\n")
            await stream.write_eof()
            return stream
        finally:
            answer.cancel()


def _internal() -> RequestError:
    """What a client hears of the exception that is handled, and the log in full."""
    _LOG.exception("a request was not answered")
    return RequestError(500, "an internal error; the server's log says which")


async def _first(texts: asyncio.Queue[str], answer: asyncio.Future[Response]) -> str | None:
    """The newest text that was told; None when the answer is there, whose errors are raised."""
    if texts.empty():
        waiting = asyncio.ensure_future(texts.get())
        both: set[asyncio.Future[Any]] = {waiting, answer}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            answer.result()
            return None
        text = waiting.result()
    else:
        text = texts.get_nowait()
    while not texts.empty():
        text = texts.get_nowait()
    return text


async def _tell(
    stream: web.StreamResponse,
    answering: Answering,
    told: str,
    text: str,
    stop: tuple[str, ...],
) -> str:
    """Send what is new of ``text`` and cannot be part of a stop; all that was told by then."""
    safe = stopped(text, stop)
    if safe == text:
        safe = text[: len(text) - max((_begun(text, each) for each in stop), default=0)]
    if len(safe) <= len(told):
        return told
    await _send(stream, answering.chunk({"content": safe[len(told) :]}))
    return safe


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``stop``."""
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)


async def _send(stream: web.StreamResponse, value: dict[str, Any]) -> None:
    await stream.write(f"data: {json.dumps(value)}\n\n".encode())
