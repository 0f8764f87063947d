"""What an endpoint sends: read up to a limit, and believed only where it has the form it should.

The client reads answers of any size and takes any types; servers may be hostile, or not what they
are taken for.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

from mergesafe.chat.conversation import Response
from mergesafe.chat.reasoning import reasoned
from mergesafe.strict_json import parse_json

#: Bytes of an answer without text: names, usage, counts of an honest server's answer.
OVERHEAD: Final = 1 << 20
#: Bytes of a token, spelled in escapes; twice, since reasoning may stand beside the answer.
PER_TOKEN: Final = 1 << 10
LARGEST: Final = 64 << 20
_SHOWN: Final = 60


class TooLargeError(Exception):
    """More was sent than an answer may be; the message says how much that is."""


class UnusableError(Exception):
    """An answer that says nothing; worth another try."""


def answer_limit(max_new_tokens: int) -> int:
    """Bytes that an answer of so many tokens may have."""
    return min(LARGEST, OVERHEAD + PER_TOKEN * max_new_tokens)


def bounded_client(limit: int, timeout: float) -> Any:
    """An HTTP client for the official one: it stops reading at ``limit`` bytes, takes nothing
    compressed, and follows no redirect: another host would get key and questions.
    """
    from openai import DefaultAsyncHttpxClient

    async def bound(response: Any) -> None:
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise TooLargeError("a compressed answer, which it was asked not to send")
        # The client is built on httpx or its successor, whose streams have a class of their own.
        base = sys.modules[type(response).__module__.partition(".")[0]].AsyncByteStream
        response.stream = _bounded(base, response.stream, limit)

    return DefaultAsyncHttpxClient(
        timeout=timeout,
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [bound]},
    )


def _bounded(base: Any, stream: Any, limit: int) -> Any:
    class Bounded(base):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = limit
            async for piece in stream:
                left -= len(piece)
                if left < 0:
                    raise TooLargeError(f"more than {limit:,} bytes")
                yield piece

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def read_answer(data: bytes) -> Response:
    """The first choice of a completion.

    ``"content": null`` is an empty answer: servers write it where a model ended at once, called a
    tool or was filtered, and would write it again. A message without the key is of another
    protocol.

    Raises:
        UnusableError: there is none, or it was cut off; the message says what was wrong.
    """
    try:
        # Beside the text servers of Python's write NaN, and some a byte order mark.
        completion = parse_json(data.removeprefix(codecs.BOM_UTF8), constants=True)
    except ValueError as error:
        raise UnusableError(
            f"its answer was {error}, so it is not of this protocol or was cut off{_begin(data)}"
        ) from None
    choices = _get(completion, "choices")
    message = _get(choices[0] if isinstance(choices, list) and choices else None, "message")
    if not isinstance(message, dict):
        raise UnusableError(
            "its answer held no message, so it is not of this protocol or was cut off"
        )
    reason = _get(choices[0], "finish_reason")
    if reason is not None and not isinstance(reason, str):
        raise UnusableError("its answer held a finish_reason that is no text")
    text = message.get("content")
    if text is None:
        text = message.get("refusal")
    thought = _thought(message)
    if text is None and ("content" in message or thought):
        text = ""  # nothing was said, or it was cut off before the answer began
    if not isinstance(text, str):
        raise UnusableError(f"its message held no text (finish_reason {_short(reason)})")
    if reason is None:
        raise UnusableError("its answer was cut off: there is no finish_reason")
    answer = text.strip()
    whole = reasoned(thought, answer, reached=bool(answer) or reason != "length")
    return Response(_whole_characters(whole), reason != "length")


def _whole_characters(text: str) -> str:
    """With U+FFFD for halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _thought(message: dict[str, Any]) -> str:
    """The reasoning that a server itself parted from the answer (vLLM, DeepSeek, Ollama)."""
    for name in ("reasoning_content", "reasoning"):
        found = message.get(name)
        if isinstance(found, str) and found.strip():
            return found
    return ""


def _begin(data: bytes) -> str:
    shown = " ".join(data[: 4 * _SHOWN].decode("utf-8", "replace").split())[:_SHOWN]
    return f"; it begins with {shown!a}" if shown else ""


def _short(value: object) -> str:
    return str(value)[:_SHOWN]
