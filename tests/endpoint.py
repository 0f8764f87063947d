"""An OpenAI-compatible endpoint on the loopback, with faults to order."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple

Messages = list[dict[str, str]]


class Endpoint:
    """What the server answers, how it misbehaves, and what it was asked.

    ``faults``: one for each of the next requests, None for a good one:

    - a status, or ``(status, headers)``, or ``(status, headers, body)``;
    - ``"hang"``: nothing is sent until the client has gone;
    - ``"malformed"``: a body that is no JSON; ``"html"``: a page with status 200;
    - ``"truncated"``: half of the body that was announced; ``"chunks"``: a chunked body cut off;
    - ``"empty"``: no choices; ``"no text"``: no content; ``"unfinished"``: no finish_reason;
    - ``"length"``: cut off at max_tokens;
    - bytes: the body; a function: called with the handler, to send what it likes.
    """

    def __init__(self, answer: Callable[[Messages], str] = lambda _: "I can't help.") -> None:
        self.answer = answer
        self.faults: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.begun: list[float] = []
        self.at_once = 0
        self.most_at_once = 0
        self.delay = 0.0
        self.models = True
        self.url = ""
        self.gone = threading.Event()
        self.lock = threading.Lock()

    def respond(self, model: str, messages: Messages) -> str:
        """What ``model`` says."""
        return self.answer(messages)

    @property
    def asked(self) -> list[str]:
        """The last message of each request."""
        return [request["messages"][-1]["content"] for request in self.requests]


class Refusal(NamedTuple):
    status: int
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed
    body: object = {"error": {"message": "sorry", "code": None}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are sent apart
    endpoint: ClassVar[Endpoint]

    def do_GET(self) -> None:
        if self.path.endswith("/models") and self.endpoint.models:
            self.send(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
        else:
            self.send(404, {"error": {"message": "nothing here"}})

    def do_POST(self) -> None:
        end = self.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with end.lock:
            end.requests.append(body)
            end.keys.append(self.headers.get("Authorization"))
            end.begun.append(time.monotonic())
            end.at_once += 1
            end.most_at_once = max(end.most_at_once, end.at_once)
            fault = end.faults.pop(0) if end.faults else None
        time.sleep(end.delay)
        with end.lock:
            end.at_once -= 1
        if not self.path.partition("?")[0].endswith("/v1/chat/completions"):
            self.send(404, {"error": {"message": "nothing here"}})
        elif isinstance(fault, bytes):
            self.raw(fault)
        elif callable(fault):
            self.close_connection = True
            fault(self)
        elif fault is None or isinstance(fault, str):
            self.fault(
                fault, completion(end.respond(body["model"], body["messages"]), body["model"])
            )
        else:
            refusal = Refusal(*(fault if isinstance(fault, tuple) else (fault,)))
            self.send(refusal.status, refusal.body, refusal.headers)

    def fault(self, fault: str | None, good: dict[str, Any]) -> None:
        choice = good["choices"][0]
        if fault == "hang":
            self.endpoint.gone.wait(20)
            self.close_connection = True
            return
        if fault == "empty":
            good["choices"] = []
        elif fault == "no text":
            del choice["message"]["content"]
        elif fault == "unfinished":
            choice["finish_reason"] = None
        elif fault == "length":
            choice["finish_reason"] = "length"
        text = json.dumps(good).encode()
        if fault == "malformed":
            text = text[: len(text) // 2]
        if fault == "html":
            self.raw(b"<html>Bad gateway</html>", kind="text/html")
        elif fault == "chunks":
            self.chunked(text[: len(text) // 2])
        else:
            self.raw(text, cut=fault == "truncated")

    def send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        self.raw(json.dumps(body).encode(), status, headers or {})

    def raw(
        self,
        body: bytes,
        status: int = 200,
        headers: dict[str, str] | None = None,
        *,
        kind: str = "application/json",
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        known = {"Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in {**known, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def chunked(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
        self.close_connection = True  # without the chunk of length 0 that ends a body

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client went away
            super().handle()

    def log_message(self, *_: object) -> None:
        """Quiet."""


def completion(text: str, model: str) -> dict[str, Any]:
    """An answer as the protocol has it."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


@contextmanager
def serve(endpoint: Endpoint | None = None) -> Iterator[Endpoint]:
    """Serve at ``endpoint.url`` inside the block."""
    end = endpoint or Endpoint()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"endpoint": end}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    end.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield end
    finally:
        end.gone.set()
        server.shutdown()
        server.server_close()
