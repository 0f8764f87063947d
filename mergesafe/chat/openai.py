"""Models behind any OpenAI-compatible endpoint, through the official client.

vLLM, llama.cpp's server, ``transformers serve``, SGLang, Ollama and the commercial services speak
this protocol (``POST {base_url}/chat/completions``).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from mergesafe.chat.address import Address, read_address
from mergesafe.chat.conversation import Conversation, Response, Sampling
from mergesafe.chat.endpoint_answer import (
    LARGEST,
    TooLargeError,
    UnusableError,
    answer_limit,
    bounded_client,
    read_answer,
)
from mergesafe.chat.pace import Pace
from mergesafe.errors import MergesafeError, ModelError
from mergesafe.extras import install
from mergesafe.references import HIDDEN, redact

#: Seconds before the first retry; doubled for each further one, up to the longest.
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
#: The longest ``Retry-After`` that is waited for, in seconds.
LONGEST_WISH: Final = 120.0
_PASSING: Final = (408, 409, 425, 429)
_SHOWN: Final = 200
Result = TypeVar("Result")


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
        timeout: seconds for one request, from sending it to the last byte of its answer, however
            slowly that comes.
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

    def __post_init__(self) -> None:
        """Check the address, if it is given.

        Raises:
            ArgumentError: it is no address of a web server.
        """
        if self.base_url is not None:
            read_address(self.base_url)

    @property
    def name(self) -> str:
        return redact(self.label or f"{self.model} at {self._place.host}")

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
        pace = Pace(self.concurrency, self.requests_per_minute, self._next)
        async with self._client(answer_limit(sampling.max_new_tokens)) as client:
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
        self, client: Any, pace: Pace, asked: Conversation, sampling: Sampling, seed: int
    ) -> Response:
        async def request() -> Response:
            async with pace:
                # Raw: the client's own reading believes whatever is sent.
                answer = await asyncio.wait_for(
                    client.chat.completions.with_raw_response.create(
                        model=self.model,
                        messages=asked,
                        max_tokens=sampling.max_new_tokens,
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        seed=seed,
                    ),
                    self.timeout,
                )
            return read_answer(answer.http_response.content)

        return await self._retried(
            request,
            "a longer 'timeout', more 'retries', a smaller 'concurrency' or 'requests_per_minute' "
            "may help. What was answered before is kept where the command can resume",
        )

    async def _check(self) -> None:
        async with self._client(LARGEST) as client:

            async def request() -> None:
                try:
                    await asyncio.wait_for(client.models.with_raw_response.list(), self.timeout)
                except Exception as error:
                    # A list of models is not part of every server: it was reached.
                    if getattr(error, "status_code", None) not in (404, 405, 501):
                        raise

            await self._retried(request, "check 'base_url' (with its /v1) and that the server runs")

    async def _retried(self, request: Callable[[], Awaitable[Result]], advice: str) -> Result:
        """The result of ``request``, which is tried again after what may pass.

        Not by the client's own retries, which know nothing of an answer that cannot be read nor of
        the time that a whole answer may take; tenacity would need as many lines.
        """
        last = ""
        for attempt in range(self.retries + 1):
            try:
                return await request()
            except Exception as error:
                last = self._passing(error)
                if attempt < self.retries:
                    await asyncio.sleep(_delay(error, attempt))
        raise ModelError(
            f"{self.name}: {self._place.name} gave no usable answer in {self.retries + 1} "
            f"tries; the last time {last}; {advice}."
        )

    def _client(self, limit: int) -> Any:
        """The official client, which reads no answer of more than ``limit`` bytes."""
        if find_spec("openai") is None:
            raise ModelError(f"{self.name}: endpoints need the package openai: {install('openai')}")
        from openai import AsyncOpenAI

        key, place = self._key(), self._place
        try:
            return AsyncOpenAI(
                api_key=key, base_url=place.base, default_query=place.query, timeout=self.timeout,
                max_retries=0, http_client=bounded_client(limit, self.timeout),
            )  # fmt: skip
        except Exception as error:  # of the HTTP library: proxies of the environment, odd hosts
            raise ModelError(
                f"{self.name}: no connection to {place.name} can be made "
                f"({type(error).__name__}: {_short(str(error))}). Check 'base_url' and the proxies "
                "that the environment sets"
            ) from None

    def _key(self) -> str:
        name = self.api_key_env or "OPENAI_API_KEY"
        key = os.environ.get(name)
        if not key and self.api_key_env is None:
            return "none"
        if not key:
            raise ModelError(
                f"{self.name}: the environment variable {name} ('api_key_env') is not set; export "
                "it with the endpoint's key"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ModelError(
                f"{self.name}: the environment variable {name} holds no key: a space, a line break "
                "or another character that no header can hold is in it"
            )
        return key

    @property
    def _address(self) -> str:
        return self.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"

    @property
    def _place(self) -> Address:
        return read_address(self._address)

    # --- failures ----------------------------------------------------------------------------

    def _passing(self, error: Exception) -> str:
        """What happened, if it may pass; what will not is raised."""
        import openai

        cause = error.__cause__ or error
        if isinstance(cause, TooLargeError):
            raise ModelError(
                f"{self.name}: {self._place.name} sent {cause}, which is no answer to what it was "
                "asked. Check 'base_url', and that the server is what you take it for."
            ) from None
        if isinstance(error, UnusableError):
            return self._hidden(str(error))
        if isinstance(error, (TimeoutError, asyncio.TimeoutError, openai.APITimeoutError)):
            return f"it did not answer within {self.timeout:g} s"
        if isinstance(error, openai.APIStatusError):
            said = f"it answered with status {error.status_code} ({self._hidden(_said(error))})"
            broke = getattr(error, "code", None) == "insufficient_quota"
            if error.status_code >= 500 or (error.status_code in _PASSING and not broke):
                return said
            raise ModelError(f"{self.name}: {said}. {self._advice(error.status_code)}") from None
        if isinstance(error, openai.APIConnectionError):
            words = self._hidden(_short(str(cause)))
            return f"the connection failed ({type(cause).__name__}: {words})"
        if isinstance(error, MergesafeError):
            raise error
        # What the libraries below raise depends on what the server sends: it is their words' turn.
        words = self._hidden(_short(str(error)))
        return f"its answer could not be read ({type(error).__name__}: {words})"

    def _hidden(self, said: str) -> str:
        """What a server or a library says, without the key that it may repeat."""
        key = os.environ.get(self.api_key_env or "OPENAI_API_KEY")
        return said.replace(key, HIDDEN) if key else said

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            return (
                "The endpoint refuses the key: name the environment variable that holds it in "
                "'api_key_env'."
            )
        if status == 404:
            return f"Check 'base_url' (with its /v1) and that it serves a model {self.model!r}."
        if 300 <= status < 400:
            return (
                "It sends to another address, which is not followed: it would get the key and the "
                "questions. Give that address as 'base_url' if it is the right one."
            )
        if status == 429:
            return "The account has no quota left."
        return "The endpoint does not take the request; see what it says."


def _delay(error: Exception, attempt: int) -> float:
    """Seconds to wait: what the server wishes, else 0.5 · 2^attempt with up to half of it less."""
    headers: Any = getattr(getattr(error, "response", None), "headers", {})
    try:
        wished = float(headers.get("retry-after", ""))
    except ValueError:
        wished = math.nan
    if math.isnan(wished):
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0**attempt) * random.uniform(0.5, 1.0)
    return min(max(wished, 0.0), LONGEST_WISH)


def _said(error: Any) -> str:
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return _short(said if isinstance(said, str) and said else str(error))


def _short(text: str) -> str:
    return " ".join(text[: 10 * _SHOWN].split())[:_SHOWN]


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
