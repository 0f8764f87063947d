"""Requests and answers of ``POST /v1/chat/completions``."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mergesafe.chat.conversation import Conversation, Response, Sampling

#: What a request may hold without effect: who asks, and what changes nothing at these values.
_IGNORED: Final = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "stream_options",
    "parallel_tool_calls",
)
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_KNOWN: Final = (
    "model", "messages", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "seed", "stop", "n", "frequency_penalty", "presence_penalty", "response_format", "logprobs",
    "tools",
)  # fmt: skip
#: Most stop strings, as of the protocol.
_STOPS: Final = 4
#: JSON can spell half of a pair, which is no text that a tokenizer takes.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class RequestError(Exception):
    """What is wrong with a request, for the client: a status and the protocol's error."""

    def __init__(self, status: int, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": parameter, "code": None}}


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered.

    ``seeded``: whether it names the seed, so that the same request gets the same answer. ``stop``:
    texts before which the answer ends.
    """

    conversation: Conversation
    sampling: Sampling
    seeded: bool
    stop: tuple[str, ...]
    stream: bool


def read_request(value: Any, model: str, longest: int) -> ChatRequest:
    """The request in a parsed body, for the model that is served as ``model``.

    ``longest``: tokens that an answer may have at most; a longer wish is cut to it.

    Raises:
        RequestError: it is none, or asks for what is not served.
    """
    if not isinstance(value, dict):
        raise RequestError(400, "the body must be a JSON object")
    for key in value:
        if key not in _KNOWN and key not in _IGNORED:
            raise RequestError(400, f"unknown parameter {str(key)[:60]!r}", str(key)[:60])
    asked = value.get("model", model)
    if asked != model:
        raise RequestError(
            404, f"the model {str(asked)[:100]!r} is not served; {model!r} is", "model"
        )
    if value.get("n") is True or value.get("n") not in (None, 1):
        raise RequestError(400, "one answer a request is served; 'n' must be 1", "n")
    for key in ("tools", "logprobs"):
        if value.get(key):
            raise RequestError(400, f"'{key}' is not served", key)
    if (value.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise RequestError(400, "only text is served", "response_format")
    for key in ("frequency_penalty", "presence_penalty"):
        if value.get(key) not in (None, 0, 0.0):
            raise RequestError(400, f"'{key}' must be 0", key)
    temperature = _number(value, "temperature", 1.0, 0.0, 2.0)
    wish = value.get("max_completion_tokens")
    wish = value.get("max_tokens") if wish is None else wish
    tokens = longest if wish is None else _whole(wish, "max_tokens", 1)
    seed, stream = value.get("seed"), value.get("stream")
    if not isinstance(stream, bool | None):
        raise RequestError(400, "'stream' must be true or false", "stream")
    return ChatRequest(
        _conversation(value.get("messages")),
        Sampling(
            min(tokens, longest), temperature, _number(value, "top_p", 1.0, 1e-9, 1.0),
            secrets.randbits(31) if seed is None else _whole(seed, "seed", 0) % (1 << 63),
        ),
        seed is not None,
        _stops(value.get("stop")),
        stream is True,
    )  # fmt: skip


def _conversation(messages: Any) -> Conversation:
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, "'messages' must be a list with a message", "messages")
    found: Conversation = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise RequestError(400, f"{where} has no role of {', '.join(_ROLES)}", where)
        found.append({"role": _ROLES[role], "content": _text(message.get("content"), where)})  # type: ignore[typeddict-item]
    if found[-1]["role"] != "user":
        raise RequestError(400, "the last message must be the user's", "messages")
    return found


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return _whole_text(content, where)
    parts: list[Any] = content if isinstance(content, list) else [None]
    for part in parts:
        if (
            not isinstance(part, dict)
            or part.get("type") != "text"
            or not isinstance(part.get("text"), str)
        ):
            raise RequestError(400, f"the content of {where} must be text", where)
    return _whole_text("".join(part["text"] for part in parts), where)


def _whole_text(text: str, where: str) -> str:
    if _SURROGATE.search(text):
        raise RequestError(400, f"the content of {where} has half of a surrogate pair", where)
    return text


def _number(value: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    found = value.get(key)
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
        raise RequestError(400, f"'{key}' must be a number from {low:g} to {high:g}", key)
    return float(found)


def _whole(found: Any, key: str, low: int) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or found < low:
        raise RequestError(400, f"'{key}' must be a whole number from {low} up", key)
    return found


def _stops(found: Any) -> tuple[str, ...]:
    listed = [found] if isinstance(found, str) else found or []
    if (
        not isinstance(listed, list)
        or len(listed) > _STOPS
        or not all(isinstance(each, str) and each for each in listed)
    ):
        raise RequestError(400, f"'stop' must be a text or up to {_STOPS} of them", "stop")
    return tuple(listed)


def stopped(text: str, stop: tuple[str, ...]) -> str:
    """``text`` up to the first of the stops in it."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


@dataclass(frozen=True)
class Answering:
    """The head that all objects of one answer share."""

    model: str
    identity: str
    created: int

    @classmethod
    def begin(cls, model: str) -> Answering:
        """Of a new answer."""
        return cls(model, f"chatcmpl-{secrets.token_hex(12)}", int(time.time()))

    def whole(self, text: str, response: Response) -> dict[str, Any]:
        """The answer in one object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "index": 0, "message": message, "finish_reason": _reason(text, response),
            "logprobs": None,
        }  # fmt: skip
        return {**self._head("chat.completion"), "choices": [choice]}

    def chunk(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        """A piece of the answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def last(self, text: str, response: Response) -> dict[str, Any]:
        """The piece that says how the answer ended."""
        return self.chunk({}, _reason(text, response))

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.identity, "object": kind, "created": self.created, "model": self.model,
        }  # fmt: skip


def _reason(text: str, response: Response) -> str:
    """``stop`` where the model or a stop text ended it, ``length`` where its room did."""
    return "stop" if response.finished or text != response.text else "length"
