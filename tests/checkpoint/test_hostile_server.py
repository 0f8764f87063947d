"""Web servers that lie, stall or send somebody on: a named error in bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from web import Handler, Web, serve

from mergesafe.checkpoint.format.model import open_checkpoint
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.places import http, remote
from mergesafe.checkpoint.places.url import open_url
from mergesafe.errors import CheckpointError

from .helpers import pack_tensors

CONTENT = bytes(range(256)) * 400
NAME = "model.safetensors"
Send = Callable[[Handler], None]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "DELAYS", (0.0,))
    monkeypatch.setattr(http, "HEADERS_TIME", 1.0)
    monkeypatch.setattr(http, "WINDOW", 0.3)
    monkeypatch.setattr(remote, "PATIENCE", 0.3)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / NAME).write_bytes(pack_tensors({"w": ("U8", [len(CONTENT)], CONTENT)}))
    with serve(Web(folder)) as served:
        yield served


def read(url: str) -> bytes:
    checkpoint = open_checkpoint(open_url(url))
    buffer = bytearray(len(CONTENT))
    with Reader() as reader:
        reader.read_into(checkpoint.tensors["w"], 0, memoryview(buffer))
        reader.check_unchanged()
    return bytes(buffer)


def fails(web: Web, words: str, *faults: Any) -> None:
    """After the answers ``faults``, the last of which is repeated."""
    web.faults[NAME] = [*faults, *[faults[-1]] * 9]
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=words) as caught:
        read(f"{web.url}/{NAME}")
    assert time.monotonic() - began < 8
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(f"{web.url}/{NAME}")


def lines(*headers: str, status: str = "206 Partial Content", body: bytes = b"abcdefgh") -> Send:
    def send(handler: Handler) -> None:
        head = "\r\n".join((f"HTTP/1.1 {status}", *headers, "", ""))
        handler.wfile.write(head.encode("latin-1") + body)

    return send


def span(text: str, length: str = "Content-Length: 8") -> Send:
    return lines(f"Content-Range: {text}", length)


@pytest.mark.parametrize(
    "first",
    [
        span("bytes 0-0/" + "9" * 5_000, "Content-Length: 1"),
        span("bytes 0-0/-5", "Content-Length: 1"),
        span("bytes 0-0/*", "Content-Length: 1"),
        span("lines 0-0/5", "Content-Length: 1"),
        lines("Content-Length: " + "9" * 5_000, status="200 OK"),
        lines("Content-Length: -1", status="200 OK"),
        lines("Content-Length: 1", "Content-Length: 2", status="200 OK"),
        lines("Transfer-Encoding: chunked", status="200 OK", body=b"zz\r\n"),
        lines("Content-Encoding: gzip", "Content-Length: 8", status="200 OK"),
        lines("no header", status="200 OK"),
        lines("A\x00: b", status="200 OK"),
        lines("ETag: \xff\xfe\x80", "Content-Length: 8", status="200 OK"),
        lines(status="999 \x1b[31m"),
        lines(status="600 OK"),
        lambda handler: handler.wfile.write(bytes(100_000)),
        lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000),
        lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2_000_000),
        lambda handler: None,
    ],
)
def test_a_first_answer_that_lies(web: Web, first: Send) -> None:
    fails(web, ".", first)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (span("bytes 0-7/9"), "changed|another range"),
        (span("bytes 1-8/102476"), "changed|another range"),
        (span("bytes 0-" + "9" * 5_000 + "/102476"), "another range"),
        (span("bytes 0-999999999/102476", "Content-Length: 999999999"), "another range"),
        (lines("Content-Length: 8", status="200 OK"), "changed|range requests"),
        (lines("Content-Length: 8", 'ETag: "x"', status="200 OK"), "changed"),
        (lines(status="204 No Content", body=b""), "."),
    ],
)
def test_ranges_that_lie(web: Web, second: Send, words: str) -> None:
    web.etags = False
    fails(web, words, None, second)


def test_a_compressed_range_is_refused(web: Web) -> None:
    web.etags = False
    size = (web.folder / NAME).stat().st_size
    packed = lines(
        f"Content-Range: bytes 0-7/{size}", "Content-Length: 8", "Content-Encoding: gzip"
    )
    fails(web, "compressed", None, packed)


def test_a_header_that_drips(web: Web) -> None:
    def drip(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(100):
            handler.wfile.write(b"y")
            time.sleep(0.05)

    fails(web, "no answer within 1 s", drip)


def test_a_body_that_drips(web: Web) -> None:
    size = (web.folder / NAME).stat().st_size
    known = {"ETag": web.etag((web.folder / NAME).read_bytes())}

    def drip(handler: Handler) -> None:
        handler.send_response(206)
        begin, end = handler.headers["Range"].removeprefix("bytes=").split("-")
        for name, value in {
            **known,
            "Content-Range": f"bytes {begin}-{end}/{size}",
            "Content-Length": str(int(end) - int(begin) + 1),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"a")
            time.sleep(0.05)

    fails(web, "fewer than 10,240 a second; gave up after 2 tries", None, None, None, drip)


def moved(place: str, status: int = 302) -> Send:
    return lines(f"Location: {place}", "Content-Length: 0", status=f"{status} Found", body=b"")


def test_a_redirect_is_followed_and_gets_no_credentials(web: Web, tmp_path: Path) -> None:
    with serve(Web(web.folder)) as other:
        web.faults[NAME] = [
            moved(f"{other.url}/{NAME}", status) for status in (301, 307, 308, 302) * 2
        ]
        url = web.url.replace("http://", "http://me:s3cr3t@")
        assert read(f"{url}/{NAME}?key=s3cr3t") == CONTENT
        assert web.headers[0]["Authorization"].startswith("Basic ")
        assert all("Authorization" not in headers for headers in other.headers)
        assert "s3cr3t" not in str(other.asked)


@pytest.mark.parametrize("setting", [{"client_kwargs": {"headers": {"X-Key": "s3cr3t"}}},
                                     {"headers": {"X-Key": "s3cr3t"}}])  # fmt: skip
def test_configured_credentials_stay_with_their_host(
    web: Web, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "http", setting)
    with serve(Web(web.folder)) as other:
        web.faults[NAME] = [moved(f"{other.url}/{NAME}")] * 9
        if "headers" in setting:
            assert read(f"{web.url}/{NAME}") == CONTENT
        else:
            fails(web, "credentials that fsspec is configured with", moved(f"{other.url}/{NAME}"))
        assert web.headers[0]["X-Key"] == "s3cr3t"
        assert all("X-Key" not in headers for headers in other.headers)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (f"/{NAME}", "redirects more than 5 times"),
        ("", "no web address"),
        ("file:///etc/hostname", "no web address"),
        ("ftp://127.0.0.1/x", "no web address"),
        ("http://", "."),
        ("http://[", "."),
        ("http://127.0.0.1:99999/x", "."),
        ("http://127.0.0.1:port/x", "."),
        ("http://" + "a" * 70 + ".invalid/", "."),
        ("http://\xff\xfe/", "."),
        ("//", "."),
    ],
)
def test_redirects_to_nowhere(web: Web, place: str, words: str) -> None:
    fails(web, words, moved(place))


def test_no_redirect_from_https_tohttp() -> None:
    with pytest.raises(remote.RemoteError, match="from https to http"):
        http._redirected("https://host/a", "http://host/a")
    assert http._redirected("https://host/a/b", "../c?d") == "https://host/c?d"


@pytest.mark.parametrize(
    "url",
    ["http://[", "http://host:99999/x", "http://host:port/x", "http://ho st/x", "http:///x",
     "http://" + "a" * 70 + ".invalid/x", "http://a..b/x", "s3://", "memory://\x00", "nosuch://x",
     "https://127.0.0.1:1/\r\nX: y"],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(open_url(url))
    assert caught.value.exit_status == 2


def test_file_systems_that_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    content = pack_tensors({"w": ("U8", [len(CONTENT)], CONTENT)})
    MemoryFileSystem.store.clear()
    MemoryFileSystem().pipe_file(f"/stalls/{NAME}", content)
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: time.sleep(3))
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="not done within 0 s"):
        read(f"memory://stalls/{NAME}")
    assert time.monotonic() - began < 2.5
    MemoryFileSystem.store.clear()
