"""A web server on the loopback that serves a folder, with ranges and with faults to order."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

_PIECE = 1 << 16


class Web:
    """What the server serves, how it misbehaves, and what it has sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.ranges = True
        self.etags = True
        #: File name -> statuses of its next answers, one each; 0 cuts an answer off halfway, None
        #: is a good one; a function is called with the handler, to send what it likes.
        self.faults: dict[str, list[int | Callable[[Handler], None] | None]] = defaultdict(list)
        self.sent: Counter[str] = Counter()  # body bytes by file name
        self.asked: list[tuple[str, str | None]] = []  # path with query, Range
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()

    def file(self, path: str) -> Path:
        return self.folder / unquote(urlsplit(path).path).lstrip("/")

    def etag(self, content: bytes) -> str:
        return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are sent apart
    web: ClassVar[Web]

    def do_GET(self) -> None:
        web, path = self.web, self.web.file(self.path)
        asked = self.headers.get("Range")
        with web.lock:
            web.asked.append((self.path, asked))
            web.headers.append(dict(self.headers))
            fault = web.faults[path.name].pop(0) if web.faults[path.name] else None
        if callable(fault):
            self.close_connection = True
            fault(self)
        elif fault:
            self.answer(fault, b"sorry")
        elif not path.is_file():
            self.answer(404, b"nothing")
        else:
            self.send(path.read_bytes(), asked if web.ranges else None, cut=fault == 0)

    def send(self, content: bytes, asked: str | None, *, cut: bool) -> None:
        headers = {"ETag": self.web.etag(content)} if self.web.etags else {}
        condition = self.headers.get("If-Match")
        if condition and condition != headers.get("ETag"):
            self.answer(412, b"")
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        if span is None:
            self.answer(200, content, headers, cut=cut)
            return
        begin, end = int(span[1]), min(int(span[2]) + 1, len(content))
        if begin >= len(content):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        self.answer(206, content[begin:end], headers, cut=cut)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            body, self.close_connection = body[: len(body) // 2], True
        name = self.web.file(self.path).name
        try:
            for begin in range(0, len(body), _PIECE):
                piece = body[begin : begin + _PIECE]
                self.wfile.write(piece)
                with self.web.lock:
                    self.web.sent[name] += len(piece)
        except OSError:
            self.close_connection = True  # the client had enough

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client went away
            super().handle()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serve(web: Web, handler: type[Handler] = Handler) -> Iterator[Web]:
    """Serve ``web`` at ``web.url`` inside the block."""
    bound = type("Bound", (handler,), {"web": web})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
