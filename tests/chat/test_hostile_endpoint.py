"""Endpoints that lie, flood or stall: an error that names them, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from endpoint import Endpoint, Handler, completion, serve

from mergesafe.chat import openai as module
from mergesafe.chat.conversation import Response, Sampling, question
from mergesafe.chat.endpoint_answer import LARGEST, answer_limit
from mergesafe.chat.openai import OpenAIModel
from mergesafe.errors import ArgumentError, ModelError

pytest.importorskip("openai")
GREEDY = Sampling(max_new_tokens=7)
SECRET = "s3cr3tk3y" * 3


@pytest.fixture
def end() -> Iterator[Endpoint]:
    with serve() as served:
        yield served


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)


def ask(end: Endpoint, **options: Any) -> list[Response]:
    model = OpenAIModel("m", end.url, **{"timeout": 5, "retries": 1, **options})
    return model.respond([question("a")], GREEDY)


def refused(end: Endpoint, fault: object, words: str, **options: Any) -> str:
    end.faults = [fault] * 9
    with pytest.raises(ModelError, match=words) as caught:
        ask(end, **options)
    assert end.url.removeprefix("http://").removesuffix("/v1") in str(caught.value)
    return str(caught.value)


def answer(**choice: Any) -> bytes:
    good = completion("fine", "m")
    good["choices"][0] |= choice
    return json.dumps(good).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"7", b"{}", b"\xff\xfe", b"{" * 100_000, b"[" * 100_000,
        b'{"choices": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"choices": null}', b'{"choices": {}}', b'{"choices": [null]}', b'{"choices": [[]]}',
        b'{"choices": "abc"}', b'{"choices": [{"message": "abc"}]}', b'{"choices": [7]}',
        answer(message={"content": 7}), answer(message={"content": ["a"]}), answer(message=[]),
        answer(finish_reason=7), answer(finish_reason={"a": []}), answer(finish_reason=None),
        answer(index=0).replace(b'"usage": {', b'"usage": {"x": 1e400, '),
        answer(index=0).replace(b'"usage": {', b'"usage": {"x": ' + b"9" * 5_000 + b", "),
        answer().decode().encode("utf-16"),
        b'{"choices": [{"message": {"content": "a\xff"}}]}',
    ],
)  # fmt: skip
def test_answers_that_are_none(end: Endpoint, body: bytes) -> None:
    refused(end, body, "gave no usable answer in 2 tries; the last time its")


@pytest.mark.parametrize(
    "body",
    [
        answer(index=0).replace(b'"usage": {', b'"usage": {"x": NaN, '),
        b"\xef\xbb\xbf" + answer(), b"\n\n " + answer(),
        answer(message={"content": "fine", "tool_calls": [], "reasoning_content": None}),
        answer(content_filter_results={"hate": {"filtered": False}}, logprobs=None, stop_reason=7),
    ],
)  # fmt: skip
def test_what_honest_servers_write_beside_the_text_is_passed_over(
    end: Endpoint, body: bytes
) -> None:
    end.faults = [body]
    assert ask(end) == [Response("fine")]


@pytest.mark.parametrize(
    ("message", "reason", "expected"),
    [
        ({"content": None}, "stop", Response("")),
        ({"content": None, "refusal": "No."}, "stop", Response("No.")),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", Response("")),
        ({"content": None}, "content_filter", Response("")),
        ({"content": None}, "length", Response("", False)),
    ],
)
def test_an_answer_of_null_is_an_empty_one(
    end: Endpoint, message: dict[str, Any], reason: str, expected: Response
) -> None:
    """It would come again, and must not end a run of thousands of questions."""
    end.faults = [answer(message=message, finish_reason=reason)]
    assert ask(end) == [expected]
    assert len(end.requests) == 1


def test_half_a_surrogate_pair_becomes_a_character_that_files_can_hold(end: Endpoint) -> None:
    end.faults = [answer(message={"content": "a\ud800b\udc00"})]
    assert ask(end) == [Response("a\ufffdb\ufffd")]
    end.faults = [
        answer(message={"content": "", "reasoning_content": "\ud83d"}, finish_reason="length")
    ]
    assert ask(end)[0].text.encode()


def test_an_answer_of_any_size_is_not_read(end: Endpoint) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = b'"' + b"a" * 65_535
        for _ in range(4_000):
            handler.wfile.write(b"10000\r\n" + piece + b"\r\n")

    tracemalloc.start()
    try:
        refused(end, endless, f"sent more than {answer_limit(7):,} bytes")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * answer_limit(7)
    assert len(end.requests) == 1
    refused(end, answer(message={"content": "a" * 2_000_000}), "sent more than")
    refused(end, (500, {}, {"error": {"message": "a" * 2_000_000}}), "sent more than")


def test_the_limit_grows_with_what_was_asked_for() -> None:
    assert answer_limit(7) < answer_limit(1_000) < answer_limit(10**9) == LARGEST


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "zstd"])
def test_compressed_answers_are_not_unpacked(end: Endpoint, encoding: str) -> None:
    bomb = gzip.compress(bytes(4_000_000))

    def packed(handler: Handler) -> None:
        handler.raw(bomb, headers={"Content-Encoding": encoding})

    refused(end, packed, "compressed")


def slowly(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for index in range(100_000):
        handler.wfile.write(b"X-%d: %s\r\n" % (index, b"a" * 100))


def header_lines(*lines: bytes) -> Callable[[Handler], None]:
    def send(handler: Handler) -> None:
        handler.wfile.write(b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"", b"{}")))

    return send


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (slowly, "did not answer within 0.5 s"),
        (headers, "connection failed"),
        (header_lines(b"Content-Length: -5"), "connection failed|could not be read"),
        (header_lines(b"Content-Length: " + b"9" * 5_000), "connection failed|could not be read"),
        (header_lines(b"Content-Length: 1", b"Content-Length: 2"), "connection failed|could not"),
        (header_lines(b"Transfer-Encoding: chunked"), "connection failed|could not be read"),
        (header_lines(b"A\x00b: c"), "connection failed|could not be read"),
        (header_lines(b"\xff\xfe"), "connection failed|could not be read"),
        (lambda handler: handler.wfile.write(b"\x00" * 100_000), "connection failed|could not"),
        (lambda handler: None, "connection failed"),
    ],
)
def test_servers_that_stall_or_speak_nonsense(
    end: Endpoint, fault: Callable[[Handler], None], words: str
) -> None:
    began = time.monotonic()
    refused(end, fault, words, timeout=0.5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "place", ["{url}/v1", "http://[", "file:///etc/passwd", "/v1", "\\", "gopher://x", ""]
)
@pytest.mark.parametrize("status", [301, 307, 308])
def test_redirects_are_not_followed(end: Endpoint, status: int, place: str) -> None:
    with serve() as other:
        where = place.format(url=other.url)
        refused(end, (status, {"Location": where}), f"status {status}.*not followed")
        assert not other.requests


def test_wishes_for_a_delay_that_is_no_number(end: Endpoint) -> None:
    for wish in ("nan", "-inf", "-1", "1e-9", "soon", "9" * 5_000 + "x"):
        end.faults = [(429, {"Retry-After": wish})]
        assert ask(end)


def test_a_key_that_a_server_repeats_is_not_shown(
    end: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    for fault in (
        (401, {}, {"error": {"message": f"wrong key {SECRET}"}}),
        (500, {}, {"error": f"wrong key {SECRET}"}),
        f"{SECRET} is wrong".encode(),
        header_lines(f"Content-Length: {SECRET}".encode()),
    ):
        assert SECRET not in refused(end, fault, "m at", api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", f"{SECRET}\r\nX: y")
    assert SECRET not in refused(end, None, "MY_KEY holds no key", api_key_env="MY_KEY")


@pytest.mark.parametrize(
    "url",
    [
        "http://[", "http://host:99999/v1", "http://host:port/v1", "http://host:-1/v1", "http://",
        "http://ho st/v1", "http://host/v1\r\nX: y", "http://host\t/", "ftp://host/v1",
        "host:8000/v1",
        "http://" + "a" * 64 + ".org/v1", "http://host/" + "a" * 3_000, "http://a..b/v1", "", "x",
        "http://[::1/v1", f"me:{SECRET}@host/v1", f"ftp://{SECRET}@host/?{SECRET}",
        f"http://me:{SECRET}@host:99999/v1", f"http://me:{SECRET}@[x/v1",
    ],
)  # fmt: skip
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(ArgumentError, match="cannot be used") as caught:
        OpenAIModel("m", url)
    assert SECRET not in str(caught.value)
    assert str(caught.value).isprintable()


def test_addresses_that_can_be() -> None:
    assert OpenAIModel("m", "http://[::1]:8000/v1").name == "m at [::1]:8000"
    assert OpenAIModel("m", "https://bücher.example/v1").name == "m at bücher.example"


def test_a_query_goes_with_every_request_and_is_shown_nowhere(end: Endpoint) -> None:
    asked: list[str] = []

    def noted(handler: Handler) -> None:
        asked.append(handler.path)
        handler.send(400, {})

    end.faults = [noted]
    model = OpenAIModel("m", f"{end.url}?sig={SECRET}#x")
    with pytest.raises(ModelError) as caught:
        model.respond([question("a")], GREEDY)
    assert asked == [f"/v1/chat/completions?sig={SECRET}"]
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_host_that_is_none_is_named(host: str) -> None:
    with pytest.raises(ArgumentError, match="a part of it is empty or longer than 63"):
        OpenAIModel("m", f"http://{host}/v1")
