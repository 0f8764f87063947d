"""Requests that are none, addresses, and what the command refuses."""

from __future__ import annotations

from typing import Any

import in_process
import pytest

from mergesafe.chat.conversation import question
from mergesafe.errors import ArgumentError
from mergesafe.serve.api import is_loopback, serve
from mergesafe.serve.protocol import RequestError, read_request

from .client import Echo, body


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
