"""Models behind any OpenAI-compatible endpoint, through the official client.

vLLM, llama.cpp's server, ``transformers serve``, SGLang, Ollama and the commercial services speak
this protocol (``POST {base_url}/chat/completions``).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from mergesafe.chat.conversation import Conversation, Response, Sampling
from mergesafe.chat.reasoning import reasoned
from mergesafe.errors import ModelError
from mergesafe.references import redact

#: Seconds before the first retry; doubled for each further one, up to the longest.
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
#: The longest ``Retry-After`` that is waited for, in seconds.
LONGEST_WISH: Final = 120.0
_PASSING: Final = (408, 409, 425, 429)
_SHOWN: Final = 200
Result = TypeVar("Result")


class _Unusable(Exception):
    """An answer that says nothing; worth another try."""


@dataclass
class OpenAIModel:
    """A chat model at ``base_url``.

    Args:
        model: the name that the endpoint knows the model by.
        base_url: with its ``/v1``; None: what the client takes from ``OPENAI_BASE_URL``, else the
            service that the protocol is named after.
        api_key_env: the environment variable that holds the key; without it ``OPENAI_API_KEY`` is
            used where it is set, and no key where it is not.
        concurrency: requests in flight at a time.
        timeout: seconds for one request, from sending it to the last byte of its answer.
        retries: further tries after a rate limit, a server's error, a lost connection, a timeout or
            an answer that cannot be read; a server's ``Retry-After`` is honoured.
        requests_per_minute: at most so many requests are begun, tries included.
    """

    model: str
    base_url: str | None = None
    api_key_env: str | None = None
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    requests_per_minute: float | None = None
    label: str | None = None
    #: When the next request may begin, by the monotonic clock: calls in a row keep the rate too.
    _next: float = field(default=0.0, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.label or f"{self.model} at {self._host}"

    @property
    def identity(self) -> str:
        """A digest of address and model: what the endpoint serves under the name may change."""
        where = f"{redact(self._address)}\n{self.model}"
        return hashlib.sha256(where.encode()).hexdigest()[:32]

    @property
    def batch(self) -> int:
        """Conversations that are worth handing over at a time."""
        return 4 * self.concurrency

    def check(self) -> None:
        """Ask the endpoint for its models, so that a wrong address or key is found at once.

        Raises:
            ModelError: it cannot be reached or refuses the key.
        """
        _run(self._check())

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Response]:
        """The answers in order; request number i is sent with the seed ``sampling.seed + i``."""
        return _run(self._respond(conversations, sampling)) if conversations else []

    # --- requests ----------------------------------------------------------------------------

    async def _respond(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> list[Response]:
        pace = _Pace(self.concurrency, self.requests_per_minute, self._next)
        async with self._client() as client:
            tasks = [
                asyncio.ensure_future(self._answer(client, pace, each, sampling, sampling.seed + i))
                for i, each in enumerate(conversations)
            ]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                self._next = pace.next
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(
        self, client: Any, pace: _Pace, asked: Conversation, sampling: Sampling, seed: int
    ) -> Response:
        async def request() -> Response:
            async with pace:
                completion = await asyncio.wait_for(
                    client.chat.completions.create(
                        model=self.model,
                        messages=asked,
                        max_tokens=sampling.max_new_tokens,
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        seed=seed,
                    ),
                    self.timeout,
                )
            return _response(completion)

        return await self._retried(
            request,
            "a longer 'timeout', more 'retries', a smaller 'concurrency' or 'requests_per_minute' "
            "may help. What was answered before is kept where the command can resume",
        )

    async def _check(self) -> None:
        async with self._client() as client:

            async def request() -> None:
                try:
                    await asyncio.wait_for(client.models.list(), self.timeout)
                except Exception as error:
                    # A list of models is not part of every server: it was reached.
                    if getattr(error, "status_code", None) not in (404, 405, 501):
                        raise

            await self._retried(request, "check 'base_url' (with its /v1) and that the server runs")

    async def _retried(self, request: Callable[[], Awaitable[Result]], advice: str) -> Result:
        """The result of ``request``, which is tried again after what may pass."""
        last = ""
        for attempt in range(self.retries + 1):
            try:
                return await request()
            except Exception as error:
                last = self._passing(error)
                if attempt < self.retries:
                    await asyncio.sleep(_delay(error, attempt))
        raise ModelError(
            f"{self.name}: {redact(self._address)} gave no usable answer in {self.retries + 1} "
            f"tries; the last time {last}; {advice}."
        )

    def _client(self) -> Any:
        if find_spec("openai") is None:
            raise ModelError(
                f"{self.name}: endpoints need the package openai: pip install 'mergesafe[openai]'"
            )
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=self._key(), base_url=self.base_url, timeout=self.timeout, max_retries=0
        )

    def _key(self) -> str:
        if self.api_key_env is None:
            return os.environ.get("OPENAI_API_KEY") or "none"
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ModelError(
                f"{self.name}: the environment variable {self.api_key_env} ('api_key_env') is not "
                "set; export it with the endpoint's key"
            )
        return key

    @property
    def _address(self) -> str:
        return self.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"

    @property
    def _host(self) -> str:
        parts = urlsplit(self._address)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.hostname or self._address}{port}"

    # --- failures ----------------------------------------------------------------------------

    def _passing(self, error: Exception) -> str:
        """What happened, if it may pass; what will not is raised."""
        import openai

        if isinstance(error, _Unusable):
            return str(error)
        if isinstance(error, (TimeoutError, asyncio.TimeoutError, openai.APITimeoutError)):
            return f"it did not answer within {self.timeout:g} s"
        if isinstance(error, openai.APIStatusError):
            said = f"it answered with status {error.status_code} ({_said(error)})"
            broke = getattr(error, "code", None) == "insufficient_quota"
            if error.status_code >= 500 or (error.status_code in _PASSING and not broke):
                return said
            raise ModelError(f"{self.name}: {said}. {self._advice(error.status_code)}") from None
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return f"the connection failed ({type(cause).__name__}: {_short(str(cause))})"
        if isinstance(error, (ValueError, openai.APIError)):
            return f"its answer was malformed ({type(error).__name__}: {_short(str(error))})"
        raise error

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            return (
                "The endpoint refuses the key: name the environment variable that holds it in "
                "'api_key_env'."
            )
        if status == 404:
            return f"Check 'base_url' (with its /v1) and that it serves a model {self.model!r}."
        if status == 429:
            return "The account has no quota left."
        return "The endpoint does not take the request; see what it says."


class _Pace:
    """At most ``concurrency`` at a time, and ``per_minute`` begun in a minute, from ``next`` on."""

    def __init__(self, concurrency: int, per_minute: float | None, begin: float) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self.next = begin

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        now = time.monotonic()
        begin = max(now, self.next)
        self.next = begin + self._gap
        try:
            await asyncio.sleep(begin - now)
        except BaseException:
            self._slots.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()


def _response(completion: Any) -> Response:
    """The first choice; the client checks nothing of what a server sends."""
    choices = getattr(completion, "choices", None)
    first: Any = choices[0] if isinstance(choices, list) and choices else None
    message: Any = getattr(first, "message", None)
    if not hasattr(message, "content"):
        raise _Unusable("its answer held no message, so it is not of this protocol or was cut off")
    text = message.content
    if text is None:
        text = getattr(message, "refusal", None)
    reason = getattr(first, "finish_reason", None)
    thought = _thought(message)
    if text is None and thought:
        text = ""  # it was cut off before the answer began
    if not isinstance(text, str):
        raise _Unusable(f"its message held no text (finish_reason {reason})")
    if reason is None:
        raise _Unusable("its answer was cut off: there is no finish_reason")
    answer = text.strip()
    whole = reasoned(thought, answer, reached=bool(answer) or reason != "length")
    return Response(whole, reason != "length")


def _thought(message: Any) -> str:
    """The reasoning that a server itself parted from the answer (vLLM, DeepSeek, Ollama)."""
    for name in ("reasoning_content", "reasoning"):
        found = getattr(message, name, None)
        if isinstance(found, str) and found.strip():
            return found
    return ""


def _delay(error: Exception, attempt: int) -> float:
    """Seconds to wait: what the server wishes, else 0.5 · 2^attempt with up to half of it less."""
    headers: Any = getattr(getattr(error, "response", None), "headers", {})
    try:
        wished = float(headers.get("retry-after", ""))
    except ValueError:
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0**attempt) * random.uniform(0.5, 1.0)
    return min(max(wished, 0.0), LONGEST_WISH)


def _said(error: Any) -> str:
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return _short(str(said or error))


def _short(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
